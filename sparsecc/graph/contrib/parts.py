"""What a rule has at hand: the node that it takes apart, what is known of its inputs, and the nodes that it has made so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsecc.graph import onnx_kept

Size = int | None


class CannotError(Exception):
    """Why a node stays as it is."""


@dataclass
class Known:
    """Of a whole graph. shapes: by value, None for a size that may change.  tensors: constants by name.  dtypes: ONNX's, by value.
    taken: names that are there, to which `Parts` adds its own."""

    shapes: Mapping[str, list[Size]]
    dtypes: Mapping[str, int]
    tensors: Mapping[str, onnx.TensorProto]
    opset: int
    taken: set[str] = field(default_factory=set)


@dataclass
class Parts:
    """nodes, tensors: what stands for `node`, in order."""

    node: onnx.NodeProto
    known: Known
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attributes = {a.name: helper.get_attribute_value(a) for a in self.node.attribute}
        self._count = 0
        self._stem = self.node.name or next(name for name in self.node.output if name)

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

    def refuse_outputs(self, first: int) -> None:
        """Those from this one on."""
        if any(self.wants(place) for place in range(first, len(self.node.output))):
            raise CannotError(f"its output {first} is read")

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

    def dtype(self, value: str) -> int:
        """float32 where nothing is known."""
        if value in self.known.tensors:
            return self.known.tensors[value].data_type
        return self.known.dtypes.get(value, onnx.TensorProto.FLOAT)

    def const(self, values: Any, dtype: Any = None) -> str:
        array = np.asarray(values, dtype)
        name = self._name("constant")
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def number(self, value: float) -> str:
        return self.const(value, np.float32)

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
        copied = onnx.NodeProto.FromString(self.node.SerializeToString())
        copied.output[:] = [name and self._name(self.node.op_type) for name in self.node.output]
        onnx_kept.settle(copied)
        self.nodes.append(copied)
        return list(copied.output)

    def sum(self, *values: str | None) -> str:
        """Of those that are there."""
        first, *others = [value for value in values if value]
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
        while True:
            self._count += 1
            name = f"{self._stem}/{what}_{self._count}"
            if name not in self.known.taken:
                self.known.taken.add(name)
                return name


Rule = Callable[[Parts], Sequence[str | None]]  # gives a value for each output, None for one that it has not
