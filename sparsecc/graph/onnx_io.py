"""Reading and writing ONNX files: what may be wrong with one is said here, and a crash never costs the old file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx_ir.passes import common

from sparsecc.errors import ModelError
from sparsecc.files import replacing
from sparsecc.ops.base import ONNX_DOMAIN

EMBED_LIMIT = 1_900_000_000  # bytes of weights; protobuf cannot write messages of 2 GiB
RUNTIME_DOMAINS = ("com.microsoft",)  # operators outside the standard that a stock onnxruntime has
RUNTIME_OPERATORS = ("SimplifiedLayerNormalization",)  # and those that it adds to the standard's own domain


def read(path: str | os.PathLike[str]) -> ir.Model:
    """The model in a file, its external data memory-mapped. Raises ModelError, naming the file and what is wrong with it."""
    file = Path(path)
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
    return from_proto(proto, str(file), file.parent)


def from_proto(proto: onnx.ModelProto, where: str, folder: Path | None = None) -> ir.Model:
    """A checked model whose weights are plain arrays (views of the mapped files, where the data is external).

    where: how errors call the model.  folder: what external data may lie in; None when the proto came from no file.
    """
    for function in [function for function in proto.functions if function.domain == ONNX_DOMAIN]:
        proto.functions.remove(function)  # the nodes say which ones they need, and those are made anew
    check(proto, where)
    weights = _external_weights(proto, where, folder)
    try:
        model = ir.serde.deserialize_model(proto)
        for name, value in model.graph.initializers.items():
            array = weights[name] if name in weights else value.const_value.numpy()  # type: ignore[union-attr]
            value.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=name)  # type: ignore[union-attr]
        common.RemoveInitializersFromInputsPass()(model)  # files of before 2019 list every weight as an input
        model.graph.sort()
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise ModelError(f"{where}: damaged: {first_cause(error)}") from None
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([size(dimension) for dimension in value.shape])
    return model


def size(dimension: int | ir.SymbolicDim) -> int | str | None:
    """A dimension's number or name; None for one that may change without a name, which exporters also write as −1 and "?"."""
    if isinstance(dimension, int):
        return dimension if dimension >= 0 else None
    return dimension.value if dimension.value and any(character.isalnum() for character in dimension.value) else None


def check(proto: onnx.ModelProto, where: str) -> None:
    """Raises ModelError for a model that says nothing, is from a newer ONNX, or has operators that nobody knows."""
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{where}: not an ONNX model: it has no graph")
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{where}: the model has no {'outputs' if proto.graph.node else 'operators'}")
    versions = {_standard(opset.domain): opset.version for opset in proto.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if versions.get("", 0) > newest:
        raise ModelError(f"{where}: opset {versions['']} is newer than {newest}, the newest that onnx {onnx.__version__} knows")
    own = {(function.domain, function.name) for function in proto.functions}
    unknown: dict[str, str] = {}
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.STRING and not _is_text(attribute.s):
                raise ModelError(f"{where}: damaged: attribute '{attribute.name}' of {node.op_type} '{_called(node)}' is no text")
        domain = _standard(node.domain)
        added = domain == "" and node.op_type in RUNTIME_OPERATORS
        if added or domain in (*RUNTIME_DOMAINS, ONNX_DOMAIN) or (node.domain, node.op_type) in own:
            continue
        if not _has_schema(node.op_type, domain, versions.get(domain, 0)):
            unknown.setdefault(_printable(f"{domain}::{node.op_type}" if domain else node.op_type), _called(node))
    if unknown:
        listed = ", ".join(f"{op} (at '{node}')" for op, node in unknown.items())
        raise ModelError(f"{where}: operators that opset {versions.get('', 0)} does not have: {listed}")
    _check_values(proto.graph, frozenset(), where)
    for function in proto.functions:
        _check_nodes(function.node, frozenset(function.input), function.output, where)


def _check_values(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> None:
    """Raises ModelError when an operator, or the model's result, is made from a value that nothing computes."""
    inputs = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    inputs += [tensor.values.name for tensor in graph.sparse_initializer]
    _check_nodes(graph.node, outer.union(inputs), [value.name for value in graph.output], where)


def _check_nodes(nodes: Sequence[onnx.NodeProto], given: frozenset[str], results: Sequence[str], where: str) -> None:
    values = given.union(name for node in nodes for name in node.output)
    for node in nodes:
        for name in node.input:
            if name and name not in values:
                reader = f"{_printable(node.op_type)} '{_called(node)}'"
                raise ModelError(f"{where}: not a valid model: {reader} reads '{_printable(name)}', which nothing computes")
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _check_values(inner, values, where)
    for name in results:
        if name not in values:
            raise ModelError(f"{where}: not a valid model: nothing computes its output '{_printable(name)}'")


def _called(node: onnx.NodeProto) -> str:
    return _printable(node.name or next(iter(node.output), "without name and output"))


def _printable(name: str | bytes) -> str:
    """A name as it is, unless damage made it something that would break a line."""
    return name if isinstance(name, str) and name.isprintable() else repr(name)


def write(model: ir.Model, path: str | os.PathLike[str], external: bool | None = None) -> None:
    """Write the model under `path`; with its weights in `<name>.data` beside it when `external`, or when they are too large to embed.

    New data gets a name that nothing has and is complete before the model takes its place, so whatever
    happens, the model under `path` is the whole old one or the whole new one. Old data that no
    model uses goes. Raises UserError when the disk says no.
    """
    file = Path(os.path.realpath(path))  # the data has to lie beside the file itself, not beside a link to it
    if external is None:
        external = sum(_nbytes(value) for value in model.graph.initializers.values()) > EMBED_LIMIT
    old = _data_files(file)
    free = (file.with_name(f"{file.name}.data{n or ''}") for n in itertools.count())
    data = next(name for name in free if not name.exists()) if external else None
    try:
        with replacing(file) as fresh:
            ir.save(model, fresh, format="protobuf", external_data=data.name if data else None, size_threshold_bytes=1024)
    except BaseException:
        if data is not None:
            data.unlink(missing_ok=True)
        raise
    for stale in old:
        if stale.name.startswith(f"{file.name}.data") and not _is_used(stale):
            stale.unlink(missing_ok=True)


def _external_weights(proto: onnx.ModelProto, where: str, folder: Path | None) -> dict[str, np.ndarray]:
    """Arrays of the graph's external initializers, by name. External tensors elsewhere (in attributes) are read into the proto."""
    external = [(tensor, True) for tensor in proto.graph.initializer] + [(tensor, False) for tensor in _inner_tensors(proto)]
    external = [(tensor, outer) for tensor, outer in external if tensor.data_location == TensorProto.EXTERNAL]
    if external and folder is None:
        raise ModelError(f"{where}: tensor '{external[0][0].name}' has its data in another file; give the path of the .onnx file instead")
    maps: dict[Path, np.ndarray] = {}
    weights = {}
    for tensor, outer in external:
        location = {entry.key: entry.value for entry in tensor.external_data}
        source = _inside(location.get("location", ""), Path(folder or "."), tensor.name, where)
        if source not in maps:  # one mapping per file: each costs a file descriptor
            maps[source] = np.memmap(source, np.uint8, "r") if source.stat().st_size else np.empty(0, np.uint8)
        raw = _slice(maps[source], location, tensor, f"{where}: external data of tensor '{tensor.name}' in {source.name}")
        dtype = ir.DataType(tensor.data_type)
        if outer and dtype.bitwidth >= 8:
            aligned = raw if raw.ctypes.data % dtype.numpy().itemsize == 0 else raw.copy()
            weights[tensor.name] = aligned.view(dtype.numpy()).reshape(tuple(tensor.dims))
        else:
            tensor.raw_data = raw.tobytes()
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
    return weights


def _inside(location: str, folder: Path, tensor: str, where: str) -> Path:
    """The file that external data names, refused unless it lies in the model's folder, symbolic links resolved."""
    outside = ModelError(f"{where}: external data of tensor '{tensor}' points outside the model's folder ('{location}'); it is not read")
    if not location or not location.isprintable():
        raise ModelError(f"{where}: external data of tensor '{tensor}' names no file{f': {location!r}' if location else ''}")
    if Path(location).is_absolute() or PureWindowsPath(location).drive or ".." in location.replace("\\", "/").split("/"):
        raise outside
    source = folder / location
    if not source.resolve().is_relative_to(folder.resolve()):
        raise outside
    if not source.is_file():
        raise ModelError(f"{where}: external data of tensor '{tensor}' is missing: there is no file '{location}' beside the model")
    return source


def _slice(data: np.ndarray, location: dict[str, str], tensor: TensorProto, what: str) -> np.ndarray:
    """The bytes of one tensor in its data file."""
    bits = int(np.prod(tensor.dims, dtype=np.int64)) * ir.DataType(tensor.data_type).bitwidth
    expected = int(-(-bits // 8))
    try:
        offset, length = int(location.get("offset", 0)), int(location.get("length", expected))
    except ValueError:
        raise ModelError(f"{what}: offset or length is no number") from None
    if length != expected or offset < 0:
        raise ModelError(f"{what}: {length} bytes at {offset}, but the shape {list(tensor.dims)} needs {expected}")
    if offset + length > data.size:
        raise ModelError(f"{what}: the file was cut off: it has {data.size} bytes, {offset + length} are needed")
    return data[offset : offset + length]


def _inner_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Tensors that are no initializers of the main graph: attributes, and initializers of graphs inside nodes."""
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of graphs inside nodes, of functions."""
    yield from _walk(proto.graph.node)
    for function in proto.functions:
        yield from _walk(function.node)


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _walk(attribute.g.node)
            for graph in attribute.graphs:
                yield from _walk(graph.node)


def _data_files(file: Path) -> list[Path]:
    """Data files that the model under `file` uses now; none when there is no readable model."""
    if not file.is_file() or file.stat().st_size > EMBED_LIMIT:
        return []
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except DecodeError:
        return []
    entries = (entry for tensor in proto.graph.initializer for entry in tensor.external_data)
    return [file.parent / name for name in dict.fromkeys(entry.value for entry in entries if entry.key == "location")]


def _is_used(data: Path) -> bool:
    """Whether a model beside it reads this data file, as a copy of the one that was replaced does."""
    return any(data in _data_files(model) for model in data.parent.glob("*.onnx"))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_schema(op_type: str, domain: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version, domain).deprecated
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a name that is no text
        return False


def _standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _nbytes(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0


def first_cause(error: BaseException) -> str:
    """What went wrong in the first place, on one line: libraries wrap it several times over."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
