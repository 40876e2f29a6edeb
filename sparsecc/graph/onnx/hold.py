"""What must not be computed ahead of time: a constant expression whose result is much larger than what it is made of (int8 weights with a
scale, masks, tables that are expanded), and random numbers. Such nodes are taken out of a model while it is folded, and put back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsecc import memory
from sparsecc.errors import ModelError
from sparsecc.graph.onnx import small
from sparsecc.graph.onnx.nodes import copied, replace_nodes, title
from sparsecc.graph.onnx.valid import inner_graphs

GROWTH = 2**16  # bytes that all folding together may add to a file
RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"})
# Operators that make much of little; where the size of what they give is not known, it may be anything.
_GROWING = frozenset(
    {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "OneHot", "EyeLike", "Loop", "Scan", "MatMul", "Gather"}
)
_NEVER_FOLDED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "SequenceEmpty"})  # onnxslim leaves these alone
_LARGEST_ITEM = 8  # bytes of a number, where its type does not matter
LARGEST = 2**28  # bytes of what may come up in between


@dataclass
class Held:
    """nodes: taken out, in order.  constants: what they read, by name.  values: their results that the rest reads, inputs meanwhile."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    values: set[str] = field(default_factory=set)


def take_out(proto: onnx.ModelProto, growth: int = GROWTH, where: str = "the model") -> Held:
    """Remove from the model, in place, what folding would make larger by more than `growth` bytes in all, and what is random.

    Raises ModelError for a constant value that no run could hold: where memory is overcommitted, the process would be killed for it.
    """
    constants = _Constants(proto)
    constants.refuse_beyond(2 * memory.available(), where)
    roots = sorted(((constants.growth(root), root) for root in constants.roots), key=lambda entry: entry[0])
    allowed, held = growth, []
    for grown, root in roots:
        if grown <= allowed:
            allowed -= max(0, grown)
        else:
            held.append(root)
    return _cut(proto, constants, held) if held else Held()


def put_back(proto: onnx.ModelProto, held: Held) -> None:
    """The nodes before all others, unless something computes their results already, with the constants that they read."""
    if not held.nodes:
        return
    graph = proto.graph
    inputs = [value for value in graph.input if value.name not in held.values]
    del graph.input[:]
    graph.input.extend(inputs)
    computed = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    nodes = [node for node in held.nodes if not computed.issuperset(node.output)]
    graph.initializer.extend(tensor for name, tensor in held.constants.items() if name not in computed)
    replace_nodes(graph, [*nodes, *graph.node])


class _Constants:
    """The constant part of a model's main graph. roots: constant values that something reads that is none."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        self.declared = {value.name: value for value in (*inferred.input, *inferred.value_info, *inferred.output)}
        self.stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.all = list(proto.graph.node)
        self.makers: dict[str, int] = {}  # the place of the node
        for place, node in enumerate(self.all):
            if self._is_constant(node):
                self.makers.update({name: place for name in node.output if name})
        made_here = set(self.makers.values())
        read = {name for place, node in enumerate(self.all) if place not in made_here for name in reads(node)}
        self.roots = [name for name in self.makers if name in read and self._has_type(name)]

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        if node.op_type in _NEVER_FOLDED:
            return False
        if node.op_type in ("Shape", "Size") and _shape(self.declared.get(node.input[0])) is not None:
            return True
        return all(name in self.stored or name in self.makers for name in reads(node))

    def _has_type(self, name: str) -> bool:
        return name in self.declared and self.declared[name].type.tensor_type.elem_type != onnx.TensorProto.UNDEFINED

    def behind(self, names: Iterable[str]) -> list[int]:
        """The places of the nodes that compute these values from the constants on, in order."""
        found: set[int] = set()
        stack = [self.makers[name] for name in names]
        while stack:
            place = stack.pop()
            if place not in found:
                found.add(place)
                stack += [self.makers[name] for name in reads(self.all[place]) if name in self.makers]
        return sorted(found)

    def growth(self, root: str) -> float:
        """Bytes that a value has more than the constants behind it; infinite for what may have any size, and for random numbers."""
        nodes = [self.all[place] for place in self.behind([root])]
        if any(node.op_type in RANDOM for node in nodes):
            return math.inf
        sizes = self._sizes(nodes)
        if any(node.op_type in _GROWING and None in [sizes[name] for name in node.output if name] for node in nodes):
            return math.inf
        if any(size is not None and size > LARGEST for size in sizes.values()):
            return math.inf
        stored = {name for node in nodes for name in reads(node) if name in self.stored}
        taken = sum(self.stored[name].ByteSize() for name in stored)
        taken += sum(node.ByteSize() for node in nodes if node.op_type == "Constant")
        return (sizes[root] or 0) - taken

    def refuse_beyond(self, most: int, where: str) -> None:
        """most: bytes of one value."""
        nodes = [self.all[place] for place in sorted(set(self.makers.values()))]
        sizes = self._sizes(nodes)
        for node in nodes:
            size = max((sizes[name] or 0 for name in node.output if name), default=0)
            if size > most:
                value = f"{node.op_type} (at '{title(node)}') makes a value of {size / 1e9:.3g} GB"
                raise ModelError(f"{where}: {value}, which this machine cannot hold")

    def _sizes(self, nodes: list[onnx.NodeProto]) -> dict[str, int | None]:
        """Bytes of what the nodes give; where onnx does not infer them, from the values of what the size is computed from."""
        sizes = {name: self._bytes(name) for node in nodes for name in node.output if name}
        if all(size is not None for size in sizes.values()):
            return sizes
        values: dict[str, np.ndarray] = {}
        for node in nodes:
            known = small.size(node, values | self._small(node), self._shape)
            if known is not None:
                sizes[node.output[0]] = known * _LARGEST_ITEM
            shape = self._shape(node.input[0]) if node.op_type == "Shape" else None
            values.update(small.evaluated(node, values | self._small(node), shape, known))
        return sizes | {name: value.nbytes for name, value in values.items() if name in sizes}

    def _small(self, node: onnx.NodeProto) -> dict[str, np.ndarray]:
        """What a node reads that is stored and small."""
        read = [self.stored[name] for name in node.input if name in self.stored]
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in read if tensor.ByteSize() < small.SMALL}

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return _shape(self.declared.get(name)) if name not in self.stored else tuple(self.stored[name].dims)

    def _bytes(self, name: str) -> int | None:
        """None where the size is not known."""
        shape = _shape(self.declared.get(name))
        element = self.declared[name].type.tensor_type.elem_type if shape is not None else onnx.TensorProto.UNDEFINED
        if shape is None or element in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            return None
        return math.prod(shape) * helper.tensor_dtype_to_np_dtype(element).itemsize


def _cut(proto: onnx.ModelProto, constants: _Constants, roots: list[str]) -> Held:
    """Take out what computes the roots, and leave a copy of what computes other things as well."""
    places = constants.behind(roots)
    held = Held([copied(constants.all[place]) for place in places], {}, set(roots))
    needed = {value.name for value in proto.graph.output}
    kept: list[onnx.NodeProto] = []
    for place, node in reversed(list(enumerate(constants.all))):  # readers first
        if place not in places or needed.intersection(name for name in node.output if name not in held.values):
            kept.append(_without(node, held.values))
            needed.update(reads(node))
    used = {name for node in held.nodes for name in reads(node)}
    held.constants.update({name: copied(tensor) for name, tensor in constants.stored.items() if name in used})
    stored = [copied(tensor) for name, tensor in constants.stored.items() if name in needed or name not in used]
    replace_nodes(proto.graph, reversed(kept))
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(stored)
    proto.graph.input.extend(constants.declared[root] for root in roots)
    return held


def _without(node: onnx.NodeProto, names: set[str]) -> onnx.NodeProto:
    """A copy of a node that does not give these values, which are inputs of the model now."""
    copy = copied(node)
    for place, name in enumerate(copy.output):
        if name in names:
            copy.output[place] = ""
    return copy


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, also from inside the graphs of an If or Loop."""
    yield from (name for name in node.input if name)
    for graph in inner_graphs(node):
        own = {name for inner in graph.node for name in inner.output} | {tensor.name for tensor in graph.initializer}
        own |= {value.name for value in graph.input}
        yield from (name for inner in graph.node for name in reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def _shape(value: onnx.ValueInfoProto | None) -> tuple[int, ...] | None:
    """None where a size may change."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    sizes = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim)
    return None if any(size < 0 for size in sizes) else sizes
