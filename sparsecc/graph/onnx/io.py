"""Reading ONNX files: what may be wrong with one is said here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from sparsecc.errors import ModelError
from sparsecc.files import require_regular
from sparsecc.graph.onnx import external
from sparsecc.graph.onnx.normal import normalize
from sparsecc.graph.onnx.valid import check, check_tensors
from sparsecc.graph.onnx.write import write as write  # to have both ways in one place
from sparsecc.ops.base import ONNX_DOMAIN

_ZERO_POINTS = 2  # the version of our domain from which on int8 layers have one for each token
_ROUNDS_TOKENS = re.compile(r"QuantizedLinear_int8(?!_calibrated|_weight_only)")
NOTES = "sparsecc.notes"  # in the meta of a model: what callers have to know of how it was read
MAP = "sparsecc.map"  # in the meta of an output: its type, serialized


def read(path: str | os.PathLike[str]) -> ir.Model:
    """The model in a file, its external data memory-mapped. Raises ModelError, naming the file and what is wrong with it."""
    file = Path(path)
    require_regular(file, ModelError)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not data:
        raise ModelError(f"{file}: the file is empty")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(f"{file}: not an ONNX model, or one that was cut off") from None
    del data
    return from_proto(proto, str(file), file.parent, file.resolve().parent)


def from_proto(proto: onnx.ModelProto, where: str, folder: Path | None = None, real: Path | None = None) -> ir.Model:
    """A checked model whose weights are plain arrays (views of the mapped files, where the data is external), in the form of a new file.

    where: how errors call the model.  folder: what external data may lie in, or `real`, where a file lies whose name is a link; None when
    the proto came from no file.
    """
    renewed = _renewed(proto)
    for function in [function for function in proto.functions if function.domain == ONNX_DOMAIN]:
        proto.functions.remove(function)  # the nodes say which ones they need, and those are made anew
    check_tensors(proto, where)
    weights = external.weights(proto, where, folder, real)
    notes = [*renewed, *normalize(proto, where)]
    check(proto, where)
    maps = _without_maps(proto)
    model = _deserialized(proto, weights, where)
    model.meta[NOTES] = notes
    for value in model.graph.outputs:
        if value.name in maps:
            value.meta[MAP] = maps[value.name]
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([size(dimension) for dimension in value.shape])
    return model


def _renewed(proto: onnx.ModelProto) -> list[str]:
    """What the nodes of an older file mean now that its functions said otherwise, in sentences."""
    older = any(imported.domain == ONNX_DOMAIN and imported.version < _ZERO_POINTS for imported in proto.opset_import)
    count = sum(node.domain == ONNX_DOMAIN and _ROUNDS_TOKENS.match(node.op_type) is not None for node in proto.graph.node)
    if not older or not count:
        return []
    return [
        f"an earlier sparsecc wrote it: {count} int8 layers rounded their inputs symmetrically, and now have a zero point for each token"
    ]


def _without_maps(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Types that hold maps, which onnx_ir cannot read, by the name of the output; they are taken off the proto."""
    found = {}
    for value in (*proto.graph.output, *proto.graph.value_info):
        kind = value.type
        while kind.WhichOneof("value") in ("sequence_type", "optional_type"):
            kind = kind.sequence_type.elem_type if kind.HasField("sequence_type") else kind.optional_type.elem_type
        if kind.HasField("map_type"):
            found[value.name] = value.type.SerializeToString()
            value.ClearField("type")
    return found


def declare_maps(proto: onnx.ModelProto, model: ir.Model) -> None:
    """The types of outputs that are maps, in place."""
    for declared, value in zip(proto.graph.output, model.graph.outputs, strict=True):
        if MAP in value.meta:
            declared.type.ParseFromString(value.meta[MAP])


def _deserialized(proto: onnx.ModelProto, weights: dict[str, np.ndarray], where: str) -> ir.Model:
    try:
        model = ir.serde.deserialize_model(proto)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is not None and tensor.dtype != ir.DataType.STRING:
                array = weights[name] if name in weights else tensor.numpy()
                value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=name)
        model.graph.sort()
    except Exception as error:  # noqa: BLE001 - a dozen kinds come from the depths of libraries, and none of them but for the bytes
        raise ModelError(f"{where}: damaged: {first_cause(error)}") from None
    return model


def size(dimension: int | ir.SymbolicDim) -> int | str | None:
    """A dimension's number or name; None for one that may change without a name, which exporters also write as −1 and "?"."""
    if isinstance(dimension, int):
        return dimension if dimension >= 0 else None
    return dimension.value if dimension.value and any(character.isalnum() for character in dimension.value) else None


def first_cause(error: BaseException) -> str:
    """What went wrong in the first place, on one line: libraries wrap it several times over."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
