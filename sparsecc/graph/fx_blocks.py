"""A torch graph in blocks: stretches between two places where a single tensor holds all that layers have computed so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from sparsecc.graph import fx_sites
from sparsecc.graph.base import Block, Given
from sparsecc.graph.fx_layers import match
from sparsecc.graph.fx_walk import Lane, Lanes

InPlaceOf = Callable[[Given], Mapping[Node, Tensor]]
_FEWEST = 2  # layers with weights in a block


class FxBlock(Block):
    """nodes: its own, in execution order.  leaving: those whose values are read later.  lanes: as they stand before the block.
    in_place_of: what the nodes that read weights and biases have instead."""

    def __init__(self, nodes: Sequence[Node], leaving: Sequence[Node], lanes: Sequence[Lane], in_place_of: InPlaceOf) -> None:
        self._nodes, self._leaving, self._lanes, self._in_place_of = nodes, leaving, lanes, in_place_of
        self.sites = tuple(node.meta[fx_sites.SITE] for node in nodes if match(node) is not None)

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
    """The nodes in execution order, divided, and the floating-point values that leave each part; the first one is what comes before
    all layers."""
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    layers = [place for place, node in enumerate(nodes) if match(node) is not None]
    if not layers:
        yield nodes, []
        return
    computed = _computed(nodes)
    crossing = _crossing(nodes, computed)
    yield nodes[: layers[0]], []
    start, inside = layers[0], 0
    for before, layer in pairwise(layers):
        inside += 1
        ends = [end for end in range(before + 1, layer + 1) if len(crossing[end]) == 1]
        if inside >= _FEWEST and ends:
            yield nodes[start : ends[-1]], crossing[ends[-1]]
            start, inside = ends[-1], 0
    [output] = graph.find_nodes(op="output")
    yield nodes[start:], [node for node in output.all_input_nodes if node in computed]


def _computed(nodes: Sequence[Node]) -> set[Node]:
    """The floating-point values that come out of a layer, or of something that does."""
    found: set[Node] = set()
    for node in nodes:
        value = node.meta.get("val")
        after = match(node) is not None or any(source in found for source in node.all_input_nodes)
        if after and isinstance(value, Tensor) and value.is_floating_point():
            found.add(node)
    return found


def _crossing(nodes: Sequence[Node], computed: set[Node]) -> list[list[Node]]:
    """For each place the computed values from before it that it or a later node reads."""
    places = {node: place for place, node in enumerate(nodes)}
    last = {node: max((places.get(user, len(nodes)) for user in node.users), default=-1) for node in computed}
    found: list[list[Node]] = []
    alive: list[Node] = []
    for place, node in enumerate(nodes):
        alive = [value for value in alive if last[value] >= place]
        found.append(list(alive))
        if node in computed:
            alive.append(node)
    return found
