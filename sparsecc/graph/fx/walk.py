"""A torch graph evaluated node by node: once for all it gives, or on several inputs side by side with a stop before each layer that
somebody wants to see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from sparsecc.graph.fx import state

Entering = list[tuple[Tensor, ...]]  # for each input of the model, what enters a node


def walk(
    module: GraphModule, arguments: Sequence[Sequence[Any]], stops: Mapping[Node, tuple[Node, ...]]
) -> Iterator[tuple[Node, Entering]]:
    """Each stop's node, in execution order, before it runs, and the values of the nodes that stand with it.

    arguments: flat, for each input of the model.  Tensors of the module are read when a node needs them, so that a weight that is
    assigned at a stop counts from there on. Nothing runs after the last stop.
    """
    lanes = Lanes(module, arguments, stops)
    remaining = len(stops)
    for node in list(module.graph.nodes):
        if node in stops:
            yield node, [tuple(lane.value(source) for source in stops[node]) for lane in lanes.each]
            remaining -= 1
        if not remaining:
            return
        lanes.step(node)


class Evaluation(Interpreter):
    """Runs nodes as a graph has them."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Under autocast, attention stays in float32 on a CPU: torch takes a quarter of the time that it takes in bfloat16."""
        if target is torch.ops.aten.scaled_dot_product_attention.default and torch.is_autocast_enabled("cpu") and args[0].is_cpu:
            with torch.autocast("cpu", enabled=False):
                wide = (x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)
                return super().call_function(target, tuple(wide), kwargs)
        return super().call_function(target, args, kwargs)


class Tapping(Evaluation):
    """Runs a graph, with some nodes' values given, and keeps what enters others."""

    def __init__(self, module: GraphModule, taps: Mapping[Node, tuple[Node, ...]], given: Mapping[Node, Tensor]) -> None:
        super().__init__(module)
        self.taps, self.given = taps, given
        self.taken: dict[Node, tuple[Tensor, ...]] = {}

    def run_node(self, n: Node) -> Any:
        if n in self.taps:
            self.taken[n] = tuple(self.env[source] for source in self.taps[n])
        return self.given[n] if n in self.given else super().run_node(n)


class Lane(Evaluation):
    """The evaluation of one input so far. Calls are not counted: several lanes are parts of one, and parts run again and again."""

    def __init__(self, module: GraphModule, arguments: Sequence[Any]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.args_iter = iter(arguments)

    def run_node(self, n: Node) -> Any:
        return super().run_node(n) if not state.counts(n) else None

    def value(self, node: Node) -> Any:
        return self.run_node(node) if node.op == "get_attr" else self.env[node]

    def step(self, node: Node, dead: Sequence[Node]) -> None:
        with torch.no_grad():
            read = [source for source in node.all_input_nodes if source.op == "get_attr"]
            self.env.update({source: self.run_node(source) for source in read})
            self.env[node] = self.run_node(node)
        for source in {*read, *dead}:
            del self.env[source]

    def ahead(self, nodes: Iterable[Node], given: Mapping[Node, Tensor]) -> dict[Node, Any]:
        """The values that `nodes`, the ones next, would have, with gradients, and with those of some nodes given; the lane stays
        where it is."""
        found = Lane(cast("GraphModule", self.module), ())
        found.env = dict(self.env)
        for node in nodes:
            for source in (*node.all_input_nodes, node):
                if source not in found.env:
                    found.env[source] = given[source] if source in given else found.run_node(source)
        return found.env


class Lanes:
    """The evaluations of several inputs, side by side. each: one for each input."""

    def __init__(self, module: GraphModule, arguments: Sequence[Sequence[Any]], stops: Mapping[Node, tuple[Node, ...]]) -> None:
        """stops: nodes whose values are wanted before another one runs. A node that reads a weight set meanwhile may be new."""
        self.each = [Lane(module, given) for given in arguments]
        self._last = {source: node for node in module.graph.nodes for source in (*node.all_input_nodes, *stops.get(node, ()))}

    def step(self, node: Node) -> None:
        """Run the next node; values that nothing reads any more are dropped."""
        if node.op in ("get_attr", "output"):
            return
        dead = [source for source in node.all_input_nodes if self._last.get(source) is node]
        for lane in self.each:
            lane.step(node, dead)
