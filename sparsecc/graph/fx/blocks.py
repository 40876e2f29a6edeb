"""A torch graph in blocks: stretches between two places where a single tensor holds all that layers have computed so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from sparsecc.graph.base import Block, Given
from sparsecc.graph.fx import sites
from sparsecc.graph.fx.layers import match
from sparsecc.graph.fx.walk import Lane, Lanes

InPlaceOf = Callable[[Given], Mapping[Node, Tensor]]
_FEWEST = 2  # layers with weights in a block
_FAR = 4  # layers after which a tensor that a block was given is read again, as by the skip connection of a U-Net


class FxBlock(Block):
    """nodes: its own, in execution order.  leaving: those whose values are read later.  lanes: as they stand before the block.
    in_place_of: what the nodes that read weights and biases have instead."""

    def __init__(self, nodes: Sequence[Node], leaving: Sequence[Node], lanes: Sequence[Lane], in_place_of: InPlaceOf) -> None:
        self._nodes, self._leaving, self._lanes, self._in_place_of = nodes, leaving, lanes, in_place_of
        self.sites = tuple(node.meta[sites.SITE] for node in nodes if match(node) is not None)

    def run(self, index: int, given: Given) -> tuple[Tensor, ...]:
        values = self._lanes[index].ahead(self._nodes, self._in_place_of(given))
        return tuple(values[node] for node in self._leaving)


def walk(module: GraphModule, arguments: Sequence[Sequence[Any]], in_place_of: InPlaceOf) -> Iterator[FxBlock]:
    """Each block before it runs. arguments: flat, for each input of the model."""
    lanes = Lanes(module, arguments, {})
    for nodes, leaving in stretches(module.graph):
        block = FxBlock(nodes, leaving, lanes.each, in_place_of)
        if block.sites:
            yield block
        for node in nodes:
            lanes.step(node)


def stretches(graph: Graph) -> Iterator[tuple[list[Node], list[Node]]]:
    """The nodes in execution order, divided, and the floating-point values of each part that later ones or the caller read; the first
    part is what comes before all layers.

    A part ends before a layer where one tensor of it is all that later parts read, and where the tensor that it was given has served: no
    cut between the layers and the addition of a residual stream. Values from further back, a time embedding say, may pass by.
    """
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    layers = [place for place, node in enumerate(nodes) if match(node) is not None]
    if not layers:
        yield nodes, []
        return
    flow = _Flow(nodes, layers, set(next(iter(graph.find_nodes(op="output"))).all_input_nodes))
    yield nodes[: layers[0]], []
    start, given, inside = layers[0], nodes[: layers[0]], 0
    for before, layer in pairwise(layers):
        inside += 1
        ends = [end for end in range(before + 1, layer + 1) if flow.may_end(start, end, given)]
        if inside >= _FEWEST and ends:
            yield nodes[start : ends[-1]], flow.leaving(start, ends[-1])
            start, given, inside = ends[-1], flow.crossing(start, ends[-1]), 0
    yield nodes[start:], flow.leaving(start, len(nodes))


class _Flow:
    """Which values are read where. Places are those of nodes in execution order."""

    def __init__(self, nodes: Sequence[Node], layers: Sequence[int], outputs: set[Node]) -> None:
        self._nodes, self._layers, self._outputs = nodes, layers, outputs
        places = {node: place for place, node in enumerate(nodes)}
        self._reads = {node: sorted(places[user] for user in node.users if user in places) for node in nodes}
        self._computed: set[Node] = set()  # all that comes out of a layer, or of something that does
        for node in nodes:
            after = match(node) is not None or any(source in self._computed for source in node.all_input_nodes)
            if after and any(isinstance(leaf, Tensor) for leaf in _leaves(node)):
                self._computed.add(node)

    def crossing(self, start: int, end: int) -> list[Node]:
        """Those computed between two places that something after them reads."""
        return [node for node in self._nodes[start:end] if node in self._computed and self._reads[node][-1:] >= [end]]

    def leaving(self, start: int, end: int) -> list[Node]:
        """The same, and what the caller reads; floating-point tensors alone."""
        read = {*self.crossing(start, end), *self._outputs}
        return [node for node in self._nodes[start:end] if node in read and node in self._computed and _is_float(node)]

    def may_end(self, start: int, end: int, given: Sequence[Node]) -> bool:
        """Whether a part can. given: what came before it."""
        crossing = self.crossing(start, end)
        if len(crossing) != 1 or not _is_float(crossing[0]):
            return False
        streams = [node for node in given if _is_float(node) and _shape(node) == _shape(crossing[0])]  # masks have another one
        return not any(self._in_use(node, end) for node in streams)

    def _in_use(self, stream: Node, at: int) -> bool:
        """Whether it is read before a place, and again soon."""
        wanted = [place for place in self._reads[stream] if place >= at]
        return len(wanted) < len(self._reads[stream]) and bool(wanted) and sum(at <= layer < wanted[0] for layer in self._layers) < _FAR


def _leaves(node: Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _shape(node: Node) -> str:
    return str(tuple(node.meta["val"].shape))


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
