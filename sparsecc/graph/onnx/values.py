"""What goes into an ONNX model and what comes out: mostly tensors of numbers, and sometimes strings, sequences and maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from sparsecc.errors import ModelError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.inputs import as_array
from sparsecc.graph.onnx import io as onnx_io

DEFAULT = "sparsecc.default"  # in the meta of an input: the tensor that it is when nobody gives it
_NUMBERS = "biuf"  # numpy's kinds


def spec(value: ir.Value) -> TensorSpec:
    """Sizes without a name get one of their own, so that they are not taken for equal."""
    name = value.name or ""
    named = [onnx_io.size(dimension) for dimension in value.shape] if value.shape is not None else []
    sizes = tuple(f"{name}_d{axis}" if size is None else size for axis, size in enumerate(named))
    default = value.meta.get(DEFAULT)
    return TensorSpec(name, sizes, _dtype(value), None if default is None else default.numpy())


def _dtype(value: ir.Value) -> str:
    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return "sequence"
    return value.dtype.numpy().name if value.dtype not in (None, ir.DataType.UNDEFINED) else "float32"


def as_tensor(value: Any) -> Any:
    """A result of onnxruntime's for torch, where it is an array of numbers."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS else value


def take_defaults(model: ir.Model) -> None:
    """Inputs that the file has a value for become plain inputs that know it."""
    for value in model.graph.inputs:
        if value.const_value is not None:
            value.meta[DEFAULT] = value.const_value
            model.graph.initializers.pop(value.name or "", None)
            value.const_value = None


def with_defaults(model: ir.Model) -> ir.Model:
    """The model for a file: with the values of such inputs again. A copy where there are some, the model itself where not."""
    if not any(DEFAULT in value.meta for value in model.graph.inputs):
        return model
    copied = model.clone()
    for value, own in zip(copied.graph.inputs, model.graph.inputs, strict=True):
        if DEFAULT in own.meta:
            value.const_value = own.meta[DEFAULT]
            copied.graph.register_initializer(value)
    return copied


def require_ranks(model: ir.Model, where: str, given: Mapping[str, Any]) -> None:
    """Raises ModelError for an input of which not even the rank is known."""
    for value in model.graph.inputs:
        name = value.name or ""
        if value.shape is None and name not in given and isinstance(value.type, ir.TensorType | None):
            raise ModelError(
                f"{where}: input '{name}' has no shape, not even a rank; give it one, as input_shapes={{'{name}': (1, ...)}} "
                f"or --input-shape {name}:1,..."
            )


def keep_numbers(model: ir.Model, where: str) -> list[str]:
    """Leave out the outputs that are no tensors of numbers, in place; of a ZipMap, what goes into it stays. Answers a sentence on each.

    Raises ModelError when an input is none, or no output is left.
    """
    for value in model.graph.inputs:
        if not _is_number(value):
            raise ModelError(f"{where}: input '{value.name}' {_called(value)}; the compiler takes tensors of numbers only")
    kept: list[ir.Value] = []
    notes: list[str] = []
    for value in model.graph.outputs:
        inner = _zipped(value)
        if _is_number(value) and inner is None:
            kept.append(value)
        elif inner is not None:
            kept.append(inner)
            notes.append(f"output '{value.name}' is a list of maps; its numbers are output '{inner.name}'")
        else:
            notes.append(f"output '{value.name}'{_maker(value)} is left out: it {_called(value)}")
    if not kept:
        raise ModelError(f"{where}: {notes[0].replace('is left out: it ', '')}; the compiler gives tensors of numbers only")
    if notes:
        model.graph.outputs[:] = list(dict.fromkeys(kept))
    return notes


def _is_number(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType | None) and value.dtype != ir.DataType.STRING


def _called(value: ir.Value) -> str:
    return "holds strings" if value.dtype == ir.DataType.STRING and isinstance(value.type, ir.TensorType) else "is a sequence of tensors"


def _maker(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else f" of {node.op_type}" + (f" (at '{node.name}')" if node.name else "")


def _zipped(value: ir.Value) -> ir.Value | None:
    """[batch, classes], what a ZipMap makes a map from each class to its score of."""
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == "ZipMap" and node.domain == "ai.onnx.ml" else None


def flat(values: Any) -> Iterator[np.ndarray]:
    """The arrays in outputs of any kind, one after another; of a map, the keys first."""
    for value in values:
        if isinstance(value, Mapping):
            yield np.asarray(list(value))
            yield np.asarray(list(value.values()))
        elif isinstance(value, list | tuple):
            yield from flat(value)
        elif isinstance(value, torch.Tensor):
            yield as_array(value)
        else:
            yield np.asarray(value)


def stored(model: ir.Model) -> int:
    """Bytes of all constants of numbers, also of those inside the graphs of an If or Loop."""
    values = [value for graph in (model.graph, *model.graph.subgraphs()) for value in graph.initializers.values()]
    tensors: list[Any] = [value.const_value for value in values if value.const_value is not None]
    attributes = [attribute for node in model.graph.all_nodes() for attribute in node.attributes.values()]
    tensors += [attribute.value for attribute in attributes if attribute.type == ir.AttributeType.TENSOR]
    return sum(tensor.nbytes for tensor in tensors if tensor.dtype != ir.DataType.STRING)
