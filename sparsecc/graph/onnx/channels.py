"""Following the channels of an ONNX graph from the layers that write them to the one that reads them, and leaving some of them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from sparsecc.errors import Refused
from sparsecc.graph.channels import Axis, Channels, Size, extent, units_of
from sparsecc.graph.onnx import sparse
from sparsecc.graph.onnx.activations import ELEMENTWISE
from sparsecc.graph.onnx.attention import AttentionNodes
from sparsecc.graph.onnx.fold import constant, free_name
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.shapes import MOVES, Entry, entries
from sparsecc.graph.onnx.sites import layer_at
from sparsecc.graph.onnx.walk import read_by
from sparsecc.graph.sites import Attention, Linear, Mlp

_POINTWISE = frozenset({*ELEMENTWISE, "Cast", "Dropout", "Where", "IsNaN", "Sqrt", "Reciprocal"})
_COUNTS = ("q_num_heads", "kv_num_heads")  # attributes of Attention


@dataclass(frozen=True)
class Between:
    """axes: of all values that have the channels.  shaped: the nodes that are given a shape which says how many there are.
    operators: of opset 23, whose attributes say it."""

    axes: Mapping[ir.Value, Axis]
    shaped: Sequence[ir.Node]
    operators: Sequence[ir.Node]


def find(model: ir.Model, site: Mlp | Attention, layers: Sequence[Linear]) -> Channels | Refused:
    """What `Graph.channels` says. site: as it is in the model.  layers: all of the model."""
    by_output = {layer.handle.output: layer for layer in layers}
    if isinstance(site, Mlp):
        writers = [by_output[site.first.handle.output]]
    else:
        found = site.handle
        assert isinstance(found, AttentionNodes)
        ends = [_sources(tap.value, by_output) for tap in (found.q, found.k, found.v)]
        if any(len(end) != 1 for end in ends):
            return Refused("q, k and v do not come from one linear layer each")
        writers = [layer for [layer] in ends]
    units = units_of(site, writers)
    if isinstance(units, Refused):
        return units
    return _follow(model, writers, units, {layer.handle.node: layer for layer in layers})


def _sources(value: ir.Value, by_output: Mapping[ir.Value, Linear]) -> list[Linear]:
    """The nearest linear layers that a value is computed from."""
    found, seen, waiting = [], {value}, [value]
    while waiting:
        here = waiting.pop()
        if here in by_output:
            found.append(by_output[here])
            continue
        producer = here.producer()
        new = [source for source in read_by(producer) if source not in seen] if producer is not None else []
        seen.update(new)
        waiting += new
    return found


@dataclass
class _Walk:
    """What is known so far. axes: of the values that have the channels.  shapes: of some of them, where more is known than the graph says.
    counted: shapes that are computed from such values, and what is made of them."""

    units: int
    axes: dict[ir.Value, Axis] = field(default_factory=dict)
    shapes: dict[ir.Value, list[Size]] = field(default_factory=dict)
    counted: set[ir.Value] = field(default_factory=set)

    def shape(self, value: ir.Value) -> list[Size]:
        return self.shapes.get(value) or _shape(value)

    def rank(self, value: ir.Value) -> int:
        return len(self.shape(value))

    def fills(self, value: ir.Value) -> bool:
        """Whether an axis of a value holds the channels and nothing else."""
        return self.axes[value].fills(self.shape(value), self.units)

    def ends_in(self, value: ir.Value) -> bool:
        """Whether the last axis does."""
        return value in self.axes and self.axes[value].at == self.rank(value) - 1 and self.fills(value)

    def counts(self, entry: Entry) -> bool:
        """Whether an entry of a shape says how many channels there are."""
        return isinstance(entry, tuple) and entry[0] in self.axes and self.axes[entry[0]].at == entry[1]


def _follow(model: ir.Model, writers: Sequence[Linear], units: int, layers: Mapping[ir.Node, Linear]) -> Channels | Refused:
    walk = _Walk(units)
    for writer in writers:
        output = writer.handle.output
        walk.axes[output] = Axis(walk.rank(output) - 1, writer.rows // units)
    shaped, operators, readers = [], [], []
    for node in model.graph:
        read = [value for value in read_by(node) if value in walk.axes]
        layer = layer_at(node) if read else None
        if layer is not None:
            if node not in layers or not walk.ends_in(layer.x):
                return Refused(f"'{node.name}' does not read its channels as columns of a linear layer")
            readers.append(layers[node])
        elif read and node.op_type != "Shape":
            found = _carried(node, walk)
            if isinstance(found, Refused):
                return found
            walk.axes[node.outputs[0]] = found
            if node.op_type in ("Reshape", "Expand") and not _adapts(node, walk):
                shaped.append(node)
            if node.op_type == "Attention":
                operators.append(node)
        elif (reason := _counting(node, walk)) is not None:
            return reason
    if any(value.is_graph_output() for value in (*walk.axes, *walk.counted)):
        return Refused("the model gives its channels as an output")
    if len(readers) != 1:
        return Refused(f"{len(readers)} layers read its channels, there has to be one")
    return Channels(units, tuple(writers), readers[0], Between(walk.axes, shaped, operators))


def _carried(node: ir.Node, walk: _Walk) -> Axis | Refused:
    """Where the result of a node that reads the channels has them."""
    rule = _RULES.get(node.op_type) if node.domain == "" else None
    found = Refused(f"'{node.name}' ({node.op_type}) reads its channels") if rule is None else rule(node, walk)
    if isinstance(found, Refused) or node.op_type not in ("Reshape", "Expand"):
        return found
    given = entries(node.inputs[1])
    spelt = given[found.at] if given is not None else None
    if given is None or not (isinstance(spelt, int) or walk.counts(spelt)):
        return Refused(f"'{node.name}' computes how many channels there are")
    if any(walk.counts(entry) for place, entry in enumerate(given) if place != found.at):
        return Refused(f"'{node.name}' is shaped by how many channels there are")
    return found


def _counting(node: ir.Node, walk: _Walk) -> Refused | None:
    """Why a node that reads shapes of values with channels, but no such value, stands in the way."""
    if node.op_type == "Shape" and node.inputs[0] in walk.axes:
        walk.counted.add(node.outputs[0])
        return None
    read = [value for value in read_by(node) if value in walk.counted]
    if read and node.domain == "" and node.op_type in MOVES:
        walk.counted.add(node.outputs[0])
    elif any((given := entries(value)) is None or any(map(walk.counts, given)) or None in given for value in read):
        return Refused(f"'{node.name}' ({node.op_type}) computes with how many channels there are")
    return None


def _adapts(node: ir.Node, walk: _Walk) -> bool:
    """Whether the shape given to a node copies or computes how many channels there are, or leaves it open."""
    given = entries(node.inputs[1])
    assert given is not None
    spelt = given[walk.axes[node.outputs[0]].at]
    copies = spelt == 0 and node.op_type == "Reshape" and not node.attributes.get_int("allowzero", 0)
    return copies or spelt == -1 or isinstance(spelt, tuple)


def resize(graph: ir.Graph, between: Between, units: int, kept: int) -> None:
    """Bring the sizes that the graph spells out in line with what is left of the channels."""
    before = {value: _shape(value) for value in between.axes}
    for node in between.shaped:
        output = node.outputs[0]
        size = extent(between.axes[output], before[output], units, kept)
        node.replace_input_with(1, _with_entry(graph, node, between.axes[output].at, size))
    for node in between.operators:
        for name in _COUNTS:
            if name in node.attributes:
                node.attributes[name] = ir.AttrInt64(name, node.attributes.get_int(name, 0) // units * kept)
    for value, axis in between.axes.items():
        sizes: list[Size] = list(before[value])
        sizes[axis.at] = extent(axis, sizes, units, kept)
        value.shape = ir.Shape(sizes)


_Rule = Callable[[ir.Node, _Walk], Axis | Refused]


def _with_entry(graph: ir.Graph, node: ir.Node, place: int, size: int | None) -> ir.Value:
    """A shape of its own for a node, with another entry in the place of a constant one."""
    given = node.inputs[1]
    assert given is not None
    producer = given.producer()
    pieces = [given] if producer is None else list(producer.inputs)
    index = 0
    while place >= (length := len(entries(pieces[index]) or ())):
        index, place = index + 1, place - length
    array = require(require(pieces[index]).const_value).numpy().copy()
    array[place] = size
    new = sparse.initializer(torch.from_numpy(array), free_name(graph, f"{node.outputs[0].name}.shape"))
    graph.register_initializer(new)
    if producer is None:
        return new
    joined = ir.node("Concat", [*pieces[:index], new, *pieces[index + 1 :]], {"axis": 0})
    joined.outputs[0].shape, joined.outputs[0].type = given.shape, given.type
    graph.insert_before(node, joined)
    return joined.outputs[0]


def _shape(value: ir.Value) -> list[Size]:
    return [size if isinstance(size, int) else size.value for size in value.shape or ()]


def _pointwise(node: ir.Node, walk: _Walk) -> Axis | Refused:
    rank = walk.rank(node.outputs[0])
    operands = [value for value in node.inputs if value is not None]
    found = {walk.axes[value].widened(walk.rank(value), rank) for value in operands if value in walk.axes}
    if len(found) > 1 or not rank:
        return Refused(f"'{node.name}' joins channels that do not stand side by side")
    [axis] = found
    if any(size != 1 for size in _sizes_at((value for value in operands if value not in walk.axes), axis.at, rank)):
        return Refused(f"'{node.name}' has an operand with a value for each channel")
    return axis


def _sizes_at(values: Iterable[ir.Value], at: int, rank: int) -> Iterator[Size]:
    for value in values:
        shape = _constant_shape(value)
        if at - rank + len(shape) >= 0:
            yield shape[at - rank + len(shape)]


def _constant_shape(value: ir.Value) -> list[Size]:
    return _shape(value) if value.const_value is None else [int(size) for size in value.const_value.shape.numpy()]


def _reshape(node: ir.Node, walk: _Walk) -> Axis | Refused:
    source, output = node.inputs[0], node.outputs[0]
    if source not in walk.axes:
        return Refused(f"'{node.name}' takes sizes from its channels")
    walk.shapes[output] = _target(node, walk)
    found = walk.axes[source].reshaped(walk.shape(source), walk.shapes[output], walk.units)
    return found or Refused(f"'{node.name}' reshapes its channels in a way that is not understood")


def _target(node: ir.Node, walk: _Walk) -> list[Size]:
    """The shape of what a Reshape gives, as far as it is known."""
    sizes, given, source = _shape(node.outputs[0]), entries(node.inputs[1]), walk.shape(require(node.inputs[0]))
    for place, entry in enumerate(given if given is not None and len(given) == len(sizes) else ()):
        if isinstance(sizes[place], int):
            continue
        if isinstance(entry, tuple):
            sizes[place] = walk.shape(entry[0])[entry[1]]
        elif entry is not None:
            sizes[place] = entry if entry > 0 else source[place] if entry == 0 else None
    return sizes


def _transpose(node: ir.Node, walk: _Walk) -> Axis | Refused:
    source = node.inputs[0]
    assert source is not None
    shape = walk.shape(source)
    order = node.attributes.get_ints("perm", list(reversed(range(len(shape)))))
    walk.shapes[node.outputs[0]] = [shape[axis] for axis in order]
    return walk.axes[source].permuted(order)


def _unsqueeze(node: ir.Node, walk: _Walk) -> Axis | Refused:
    new, rank = constant(node.inputs[1]), walk.rank(node.outputs[0])
    if new is None:
        return Refused(f"'{node.name}' computes its axes")
    axis = walk.axes[require(node.inputs[0])]
    inserted = {int(place) % rank for place in new.reshape(-1)}
    return Axis([place for place in range(rank) if place not in inserted][axis.at], axis.size)


def _expand(node: ir.Node, walk: _Walk) -> Axis | Refused:
    source = node.inputs[0]
    if source not in walk.axes:
        return Refused(f"'{node.name}' takes sizes from its channels")
    return walk.axes[source].widened(walk.rank(source), walk.rank(node.outputs[0]))


def _slice(node: ir.Node, walk: _Walk) -> Axis | Refused:
    source, taken = node.inputs[0], constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if source not in walk.axes or taken is None or walk.axes[source].at in np.mod(taken, walk.rank(source)):
        return Refused(f"'{node.name}' takes some of its channels")
    return walk.axes[source]


def _concat(node: ir.Node, walk: _Walk) -> Axis | Refused:
    found = {walk.axes.get(value) for value in node.inputs}  # type: ignore[arg-type]
    axis = next(iter(found))
    if len(found) > 1 or axis is None or node.attributes.get_int("axis", 0) % walk.rank(node.outputs[0]) == axis.at:
        return Refused(f"'{node.name}' joins its channels with others")
    return axis


def _softmax(node: ir.Node, walk: _Walk) -> Axis | Refused:
    axis, rank = walk.axes[require(node.inputs[0])], walk.rank(node.outputs[0])
    if node.attributes.get_int("axis", -1) % rank == axis.at:
        return Refused(f"'{node.name}' adds up over its channels")
    return axis


def _matmul(node: ir.Node, walk: _Walk) -> Axis | Refused:
    """Of two values with the channels side by side among the leading axes."""
    rank = walk.rank(node.outputs[0])
    found = {walk.axes[value].widened(walk.rank(value), rank) if value in walk.axes else None for value in node.inputs if value is not None}
    axis = next(iter(found))
    if len(found) > 1 or axis is None or axis.at >= rank - 2:
        return Refused(f"'{node.name}' multiplies channels that do not stand side by side")
    return axis


def _attention(node: ir.Node, walk: _Walk) -> Axis | Refused:
    """4-D by heads, or 3-D with the heads in the last axis; v may have other widths than q and k."""
    q, k, v = (walk.axes.get(require(value)) for value in node.inputs[:3])
    rank = walk.rank(node.outputs[0])
    heads = 1 if rank == 4 else rank - 1
    if q is None or k is None or v is None or {q.at, k.at, v.at} != {heads} or q.size % k.size:
        return Refused("its heads are not those of its layers")
    if not all(walk.fills(require(value)) for value in node.inputs[:3]):
        return Refused("its heads do not share keys and values in their order")
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None and (mask in walk.axes or any(size != 1 for size in _sizes_at([mask], 1, 4))):
        return Refused("its mask differs from head to head")
    others = [value for value in node.outputs[1:] if value.uses() or value.is_graph_output()]
    return Refused("its keys or scores are outputs, too") if others else Axis(heads, q.size // k.size * v.size)


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Slice": _slice,
    "Concat": _concat,
    "Softmax": _softmax,
    "MatMul": _matmul,
    "Attention": _attention,
}
