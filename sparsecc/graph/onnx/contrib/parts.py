"""What a rule has at hand: the node that it takes apart, what is known of its inputs, and the nodes that it has made so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparsecc.graph.onnx import kept as onnx_kept
from sparsecc.graph.onnx.nodes import Names, copied, title

Size = int | None
_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_FLOATS = (TensorProto.FLOAT, *_OTHER_FLOATS)


class CannotError(Exception):
    """Why a node stays as it is."""


class _Attributes(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        raise CannotError(f"it has no attribute '{name}'")


@dataclass
class Known:
    """Of a whole graph. shapes: by value, None for a size that may change.  tensors: constants by name.  dtypes: ONNX's, by value,
    where they are known."""

    shapes: Mapping[str, list[Size]]
    dtypes: Mapping[str, int]
    tensors: Mapping[str, onnx.TensorProto]
    opset: int
    names: Names = field(default_factory=lambda: Names(onnx.GraphProto()))

    @property
    def only_float32(self) -> bool:
        """Whether no value is known to be another kind of float."""
        return {*self.dtypes.values(), *(tensor.data_type for tensor in self.tensors.values())}.isdisjoint(_OTHER_FLOATS)


@dataclass
class Parts:
    """nodes, tensors: what stands for `node`, in order."""

    node: onnx.NodeProto
    known: Known
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attributes = _Attributes({a.name: helper.get_attribute_value(a) for a in self.node.attribute})
        self._count = 0
        self._stem = title(self.node)

    def get(self, name: str, default: Any) -> Any:
        """An attribute; text as str."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, place: int) -> str | None:
        """None for one that is left out."""
        return self.node.input[place] if place < len(self.node.input) and self.node.input[place] else None

    def inputs(self, count: int) -> list[Any]:
        return [self.input(place) for place in range(count)]

    def wants(self, place: int) -> bool:
        """Whether anybody may read this output."""
        return place < len(self.node.output) and bool(self.node.output[place])

    def shape(self, value: str) -> list[Size]:
        """Sizes that may change are None. Raises CannotError when not even the rank is known."""
        if value in self.known.tensors:
            return list(self.known.tensors[value].dims)
        if value not in self.known.shapes:
            raise CannotError(f"the rank of '{value}' is not known")
        return list(self.known.shapes[value])

    def size(self, value: str, axis: int) -> int:
        """Raises CannotError when it may change."""
        size = self.shape(value)[axis]
        if size is None:
            raise CannotError(f"the size of '{value}' at axis {axis} is not fixed")
        return size

    def array(self, value: str | None, what: str) -> np.ndarray:
        """Of a constant. Raises CannotError for what the model computes."""
        if value is None or value not in self.known.tensors:
            raise CannotError(f"its {what} is no constant of the model")
        return numpy_helper.to_array(self.known.tensors[value])

    def dtype(self, value: str | None) -> int | None:
        """ONNX's, None where it is not known."""
        tensor = self.known.tensors.get(value or "")
        return self.known.dtypes.get(value or "") if tensor is None else tensor.data_type

    @property
    def kind(self) -> int:
        """In which type of floats the node computes: that of its inputs. Raises CannotError when it may be one or another."""
        found = next((dtype for dtype in map(self.dtype, self.node.input) if dtype in _FLOATS), None)
        if found is not None:
            return found
        if not self.known.only_float32:
            raise CannotError("the type of its inputs is not known")
        return TensorProto.FLOAT

    @property
    def numpy_kind(self) -> np.dtype:
        return helper.tensor_dtype_to_np_dtype(self.kind)

    @property
    def lowest(self) -> float:
        """The least number of `kind`."""
        return float(ml_dtypes.finfo(self.numpy_kind).min)

    def const(self, values: Any, dtype: Any = None) -> str:
        array = np.asarray(values, dtype)
        name = self._name("constant")
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def number(self, value: float) -> str:
        """In the type of floats that the node computes in."""
        return self.const(value, self.numpy_kind)

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def op(self, op_type: str, *inputs: str | None, named: bool = False, **attributes: Any) -> str:
        """A new node's one output. named: it is the layer that the node was."""
        return self.several(op_type, inputs, 1, named=named, **attributes)[0]

    def several(self, op_type: str, inputs: Sequence[str | None], outputs: int, *, named: bool = False, **attributes: Any) -> list[str]:
        names = [self._name(op_type) for _ in range(outputs)]
        title = self._stem if named else names[0]
        given = [value or "" for value in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(helper.make_node(op_type, given, names, name=title, **attributes))
        return names

    def kept(self) -> list[str]:
        """The node as it is, which is not looked at again; its outputs, "" for those that nobody reads."""
        same = copied(self.node)
        same.output[:] = [name and self._name(self.node.op_type) for name in self.node.output]
        onnx_kept.settle(same)
        self.nodes.append(same)
        return list(same.output)

    def sum(self, *values: str | None) -> str:
        """Of those that are there."""
        given = [value for value in values if value]
        if not given:
            raise CannotError("it has no inputs")
        first, *others = given
        for other in others:
            first = self.op("Add", first, other)
        return first

    def slice(self, x: str, axis: int, start: int, end: int) -> str:
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def mean_of_last(self, x: str) -> str:
        if self.known.opset < 18:
            return self.op("ReduceMean", x, axes=[-1], keepdims=1)
        return self.op("ReduceMean", x, self.ints(-1), keepdims=1)

    def turned(self, x: str) -> str:
        """With its last two axes exchanged."""
        rank = len(self.shape(x))
        return self.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])

    def finish(self, results: Sequence[str | None]) -> None:
        """Give the results the names that readers know."""
        for name, result in zip(self.node.output, results, strict=False):
            if name and result is None:
                raise CannotError(f"its output '{name}' is read")
            if name and result is not None:
                self.nodes.append(helper.make_node("Identity", [result], [name], name=self._name("Identity")))

    def _name(self, what: str) -> str:
        self._count += 1
        return self.known.names.free(f"{self._stem}/{what}_{self._count}")


Rule = Callable[[Parts], Sequence[str | None]]  # gives a value for each output, None for one that it has not
