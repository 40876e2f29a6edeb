"""Following the channels of an ONNX graph from the layers that write them to the one that reads them, and leaving some of them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from sparsecc.errors import Refused
from sparsecc.graph import onnx_sparse
from sparsecc.graph.channels import Axis, Channels, Size, extent, units_of
from sparsecc.graph.onnx_activations import ELEMENTWISE
from sparsecc.graph.onnx_attention import AttentionNodes
from sparsecc.graph.onnx_fold import constant
from sparsecc.graph.onnx_sites import layer_at
from sparsecc.graph.onnx_walk import read_by
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


def _follow(model: ir.Model, writers: Sequence[Linear], units: int, layers: Mapping[ir.Node, Linear]) -> Channels | Refused:
    axes = {writer.handle.output: Axis(len(_shape(writer.handle.output)) - 1, writer.rows // units) for writer in writers}
    shaped, operators, readers = [], [], []
    for node in model.graph:
        if not any(value in axes for value in read_by(node)):
            continue
        layer = layer_at(node)
        if layer is not None:
            if node not in layers or layer.x not in axes or axes[layer.x].at != len(_shape(layer.x)) - 1:
                return Refused(f"'{node.name}' does not read its channels as columns of a linear layer")
            readers.append(layers[node])
            continue
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        found = Refused(f"'{node.name}' ({node.op_type}) reads its channels") if rule is None else rule(node, axes, units)
        if isinstance(found, Refused):
            return found
        axes[node.outputs[0]] = found
        if node.op_type in ("Reshape", "Expand"):
            entry = _entry(node, found.at)
            if entry is None:
                return Refused(f"'{node.name}' computes how many channels there are")
            if not _open(node, entry):
                shaped.append(node)
        if node.op_type == "Attention":
            operators.append(node)
    if any(value.is_graph_output() for value in axes):
        return Refused("the model gives its channels as an output")
    if len(readers) != 1:
        return Refused(f"{len(readers)} layers read its channels, there has to be one")
    return Channels(units, tuple(writers), readers[0], Between(axes, shaped, operators))


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


_Axes = Mapping[ir.Value, Axis]
_Rule = Callable[[ir.Node, _Axes, int], Axis | Refused]


def _entry(node: ir.Node, place: int) -> tuple[int, int, int] | None:
    """What the shape given to a Reshape or Expand has at a place: the number, which piece of a Concat has it (0 without one), and where.
    None where it is computed."""
    start = 0
    for index, piece in enumerate(_pieces(node)):
        length = _constant_shape(piece)[0] if _constant_shape(piece) else None
        if not isinstance(length, int):
            return None
        if place < start + length:
            array = constant(piece)
            return None if array is None else (int(array[place - start]), index, place - start)
        start += length
    return None


def _pieces(node: ir.Node) -> Sequence[ir.Value]:
    """The constants and computed values that the shape given to a node is made of."""
    shape = node.inputs[1]
    assert shape is not None
    producer = shape.producer()
    return producer.inputs if producer is not None and producer.op_type == "Concat" else [shape]  # type: ignore[return-value]


def _open(node: ir.Node, entry: tuple[int, int, int]) -> bool:
    """Whether an entry copies the size of the input, or leaves it to the others."""
    return entry[0] == -1 or (entry[0] == 0 and node.op_type == "Reshape" and not node.attributes.get_int("allowzero", 0))


def _with_entry(graph: ir.Graph, node: ir.Node, place: int, size: int | None) -> ir.Value:
    """A shape of its own for a node, with another entry."""
    found, pieces = _entry(node, place), list(_pieces(node))
    assert found is not None
    _, index, inside = found
    array = constant(pieces[index]).copy()  # type: ignore[union-attr]
    array[inside] = size
    new = onnx_sparse.initializer(torch.from_numpy(array), onnx_sparse.free_name(graph, f"{node.outputs[0].name}.shape"))
    graph.register_initializer(new)
    if len(pieces) == 1:
        return new
    pieces[index] = new
    joined = ir.node("Concat", pieces, {"axis": 0})
    joined.outputs[0].shape, joined.outputs[0].type = node.inputs[1].shape, node.inputs[1].type  # type: ignore[union-attr]
    graph.insert_before(node, joined)
    return joined.outputs[0]


def _shape(value: ir.Value) -> list[Size]:
    return [size if isinstance(size, int) else size.value for size in value.shape or ()]


def _pointwise(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    rank = len(_shape(node.outputs[0]))
    operands = [value for value in node.inputs if value is not None]
    found = {axes[value].widened(len(_shape(value)), rank) for value in operands if value in axes}
    if len(found) > 1 or not rank:
        return Refused(f"'{node.name}' joins channels that do not stand side by side")
    [axis] = found
    if any(size != 1 for size in _sizes_at((value for value in operands if value not in axes), axis.at, rank)):
        return Refused(f"'{node.name}' has an operand with a value for each channel")
    return axis


def _sizes_at(values: Iterable[ir.Value], at: int, rank: int) -> Iterator[Size]:
    for value in values:
        shape = _constant_shape(value)
        if at - rank + len(shape) >= 0:
            yield shape[at - rank + len(shape)]


def _constant_shape(value: ir.Value) -> list[Size]:
    return _shape(value) if value.const_value is None else [int(size) for size in value.const_value.shape.numpy()]


def _reshape(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    source = node.inputs[0]
    found = axes[source].reshaped(_shape(source), _shape(node.outputs[0]), units) if source in axes else None
    return found or Refused(f"'{node.name}' reshapes its channels in a way that is not understood")


def _transpose(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    axis = axes[node.inputs[0]]  # type: ignore[index]
    rank = len(_shape(node.inputs[0]))  # type: ignore[arg-type]
    return axis.permuted(node.attributes.get_ints("perm", list(reversed(range(rank)))))


def _unsqueeze(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    new, rank = constant(node.inputs[1]), len(_shape(node.outputs[0]))
    if new is None:
        return Refused(f"'{node.name}' computes its axes")
    axis = axes[node.inputs[0]]  # type: ignore[index]
    inserted = {int(place) % rank for place in new.reshape(-1)}
    return Axis([place for place in range(rank) if place not in inserted][axis.at], axis.size)


def _expand(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    source = node.inputs[0]
    if source not in axes:
        return Refused(f"'{node.name}' takes sizes from its channels")
    return axes[source].widened(len(_shape(source)), len(_shape(node.outputs[0])))


def _slice(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    source, taken = node.inputs[0], constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if source not in axes or taken is None or axes[source].at in np.mod(taken, len(_shape(source))):
        return Refused(f"'{node.name}' takes some of its channels")
    return axes[source]


def _concat(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    found = {axes.get(value) for value in node.inputs}  # type: ignore[arg-type]
    axis = next(iter(found))
    if len(found) > 1 or axis is None or node.attributes.get_int("axis", 0) % len(_shape(node.outputs[0])) == axis.at:
        return Refused(f"'{node.name}' joins its channels with others")
    return axis


def _softmax(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    axis, rank = axes[node.inputs[0]], len(_shape(node.outputs[0]))  # type: ignore[index]
    if node.attributes.get_int("axis", -1) % rank == axis.at:
        return Refused(f"'{node.name}' adds up over its channels")
    return axis


def _matmul(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    """Of two values with the channels side by side among the leading axes."""
    rank = len(_shape(node.outputs[0]))
    found = {axes[value].widened(len(_shape(value)), rank) if value in axes else None for value in node.inputs if value is not None}
    axis = next(iter(found))
    if len(found) > 1 or axis is None or axis.at >= rank - 2:
        return Refused(f"'{node.name}' multiplies channels that do not stand side by side")
    return axis


def _attention(node: ir.Node, axes: _Axes, units: int) -> Axis | Refused:
    """4-D by heads, or 3-D with the heads in the last axis; v may have other widths than q and k."""
    q, k, v = (axes.get(value) for value in node.inputs[:3])  # type: ignore[arg-type]
    if q is None or k is None or v is None or len({q.at, k.at, v.at}) != 1 or q.size % k.size or any(value.uses() for value in node.outputs[1:]):
        return Refused("its heads are not those of its layers")
    mask, rank = node.inputs[3] if len(node.inputs) > 3 else None, len(_shape(node.outputs[0]))
    if q.at != (1 if rank == 4 else rank - 1):
        return Refused("its heads are not those of its layers")
    if mask is not None and (mask in axes or any(size != 1 for size in _sizes_at([mask], 1, 4))):
        return Refused("its mask differs from head to head")
    return Axis(q.at, q.size // k.size * v.size)


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
