"""Following the channels of a torch graph from the layers that write them to the one that reads them, and leaving some of them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from sparsecc.errors import Refused
from sparsecc.graph.channels import Axis, Channels, Size, extent, units_of
from sparsecc.graph.fx.activations import ELEMENTWISE
from sparsecc.graph.fx.layers import Layer, arguments, aten, match, stored
from sparsecc.graph.fx.sites import SITE, inputs_of, is_site
from sparsecc.graph.sites import Attention, Linear, Mlp

_COPIES = frozenset({aten.clone.default, aten.contiguous.default, aten._to_copy.default, aten.dropout.default, aten.alias.default})
_POINTWISE = ELEMENTWISE | _COPIES


@dataclass(frozen=True)
class Between:
    """axes: of all values that have the channels.  sizes: nodes whose list of sizes says how many channels there are, and at which place.
    reader: the layer's node."""

    axes: Mapping[Node, Axis]
    sizes: Mapping[Node, int]
    reader: Node


def find(module: GraphModule, site: Mlp | Attention, layers: Sequence[Linear]) -> Channels | Refused:
    """What `Graph.channels` says. layers: all of the module."""
    nodes = {node.meta[SITE]: node for node in module.graph.nodes if is_site(node)}
    names = {node: name for name, node in nodes.items()}
    linears = {layer.name: layer for layer in layers}
    ends = [[nodes[site.first.name]]] if isinstance(site, Mlp) else [_sources(value) for value in inputs_of(nodes[site.name])]
    if any(len(found) != 1 or names[found[0]] not in linears for found in ends):
        return Refused("q, k and v do not come from one linear layer each")
    writers = [linears[names[node]] for [node] in ends]
    units = units_of(site, writers)
    if isinstance(units, Refused):
        return units
    axes = {nodes[writer.name]: Axis(len(_shape(nodes[writer.name])) - 1, writer.rows // units) for writer in writers}
    between = _follow(axes, units)
    if isinstance(between, Refused):
        return between
    return Channels(units, tuple(writers), linears[names[between.reader]], between)


def _follow(writers: Mapping[Node, Axis], units: int) -> Between | Refused:
    """writers: the nodes of the layers."""
    axes, sizes, readers = dict(writers), {}, {}
    for node in next(iter(writers)).graph.nodes:
        read = [source for source in node.all_input_nodes if source in axes]
        if not read or node in axes:
            continue
        layer = match(node)
        if layer is not None:
            axis, shape = axes[read[0]], _shape(read[0])
            if axis.at != len(shape) - 1 or not axis.fills(shape, units):
                return Refused(f"layer '{node.meta[SITE]}' does not read its channels as columns")
            readers[node] = layer
            continue
        rule = _RULES.get(node.target)
        found = Refused(f"'{node.name}' ({node.target}) reads its channels") if rule is None else rule(node, axes, units)
        if isinstance(found, Refused):
            return found
        axes[node] = found
        if node.target in (*_RESHAPES, aten.expand.default):
            place = found.at
            entry = node.args[1][place]
            if not isinstance(entry, int):
                return Refused(f"'{node.name}' computes how many channels there are")
            if entry != -1:
                sizes[node] = place
    if len(readers) != 1:
        return Refused(f"{len(readers)} layers read its channels, there has to be one")
    [(reader, layer)] = readers.items()
    if not isinstance(layer, Layer) or layer.geometry is not None:
        return Refused(f"layer '{reader.meta[SITE]}', which reads its channels, is no dense linear layer")
    return Between(axes, sizes, reader)


def _sources(value: Node) -> list[Node]:
    """The nearest layers that a value is computed from."""
    found, seen, waiting = [], {value}, [value]
    while waiting:
        node = waiting.pop()
        if match(node) is not None:
            found.append(node)
            continue
        new = [source for source in node.all_input_nodes if source not in seen]
        seen.update(new)
        waiting += new
    return found


def resize(between: Between, units: int, kept: int) -> None:
    """Bring the sizes that the graph spells out in line with what is left of the channels."""
    for node, place in between.sizes.items():
        sizes: list[Any] = list(node.args[1])  # type: ignore[arg-type]
        sizes[place] = extent(between.axes[node], _shape(node), units, kept)
        node.args = (node.args[0], sizes, *node.args[2:])


def refresh(module: GraphModule, changed: set[Node]) -> None:
    """The shapes of everything that follows from get_attr nodes whose tensors have other shapes."""
    for node in changed:
        node.meta["val"] = stored(node)
    stale = set(changed)
    for node in module.graph.nodes:
        if any(source in stale for source in node.all_input_nodes):
            before, node.meta["val"] = node.meta["val"], _evaluated(node)
            if node.meta["val"].shape != before.shape:
                stale.add(node)


def _evaluated(node: Node) -> Tensor:
    mode = node.meta["val"].fake_mode

    def value(source: Node) -> Any:
        known = stored(source) if source.op == "get_attr" else source.meta["val"]
        is_real = isinstance(known, Tensor) and not isinstance(known, FakeTensor)
        return mode.from_tensor(known, static_shapes=True) if is_real else known

    args, kwargs = map_arg((node.args, node.kwargs), value)
    with mode, torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


_Axes = Mapping[Node, Axis]
_Rule = Callable[[Node, _Axes, int], Axis | Refused]


def _shape(node: Node) -> list[Size]:
    return [size if isinstance(size, int) else str(size) for size in node.meta["val"].shape]


def _place(node: Node, axis: Any, rank: int | None = None) -> int:
    """An axis counted from the front."""
    return int(axis) % (len(_shape(node)) if rank is None else rank)


def _pointwise(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    rank = len(_shape(node))
    tensors = [source for source in node.all_input_nodes if isinstance(source.meta.get("val"), Tensor) or source.op == "get_attr"]
    found = {axes[source].widened(len(_shape_of(source)), rank) for source in tensors if source in axes}
    if len(found) > 1:
        return Refused(f"'{node.name}' joins channels that do not stand side by side")
    [axis] = found
    others = (source for source in tensors if source not in axes)
    if any(size != 1 for size in _sizes_at(others, axis.at, rank)):
        return Refused(f"'{node.name}' has an operand with a value for each channel")
    return axis


def _sizes_at(tensors: Iterator[Node], at: int, rank: int) -> Iterator[Size]:
    for tensor in tensors:
        shape = _shape_of(tensor)
        if at - rank + len(shape) >= 0:
            yield shape[at - rank + len(shape)]


def _shape_of(node: Node) -> list[Size]:
    tensor = stored(node)
    return _shape(node) if tensor is None else list(tensor.shape)


def _reshape(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    source = node.all_input_nodes[0]
    found = axes[source].reshaped(_shape(source), _shape(node), units) if source in axes else None
    return found or Refused(f"'{node.name}' reshapes its channels in a way that is not understood")


def _transpose(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    order = list(range(len(_shape(node))))
    a, b = (_place(node, axis) for axis in node.args[1:3])
    order[a], order[b] = order[b], order[a]
    return axes[node.all_input_nodes[0]].permuted(order)


def _permute(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    return axes[node.all_input_nodes[0]].permuted([_place(node, axis) for axis in node.args[1]])  # type: ignore[union-attr]


def _unsqueeze(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    axis, new = axes[node.all_input_nodes[0]], _place(node, node.args[1])
    return Axis(axis.at + (new <= axis.at), axis.size)


def _expand(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    source = node.all_input_nodes[0]
    return axes[source].widened(len(_shape(source)), len(_shape(node)))


def _slice(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    axis = axes[node.all_input_nodes[0]]
    return axis if _place(node, arguments(node)["dim"]) != axis.at else Refused(f"'{node.name}' takes some of its channels")


def _cat(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    found = {axes.get(source) for source in node.all_input_nodes}
    axis = next(iter(found))
    if len(found) > 1 or axis is None or _place(node, arguments(node)["dim"]) == axis.at:
        return Refused(f"'{node.name}' joins its channels with others")
    return axis


def _attention(node: Node, axes: _Axes, units: int) -> Axis | Refused:
    given, rank = arguments(node), len(_shape(node))
    q, k, v = (axes.get(given[name]) for name in ("query", "key", "value"))
    heads = rank - 3
    if q is None or k is None or v is None or k != v or {q.at, k.at} != {heads}:
        return Refused("its heads are not those of its layers")
    if q != k and not (q.fills(_shape(given["query"]), units) and k.fills(_shape(given["key"]), units)):
        return Refused("its heads do not share keys and values in their order")
    mask = given["attn_mask"]
    if mask is not None and (mask in axes or any(size != 1 for size in _sizes_at(iter([mask]), heads, rank))):
        return Refused("its mask differs from head to head")
    return q


_RESHAPES: Sequence[Any] = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_POINTWISE, _pointwise),
    **dict.fromkeys(_RESHAPES, _reshape),
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.cat.default: _cat,
    aten.scaled_dot_product_attention.default: _attention,
}
