"""A torch graph evaluated on several inputs side by side, node by node, with a stop before each layer that somebody wants to see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

Entering = list[tuple[Tensor, ...]]  # for each input of the model, what enters a node


def walk(
    module: GraphModule, arguments: Sequence[Sequence[Any]], stops: Mapping[Node, tuple[Node, ...]]
) -> Iterator[tuple[Node, Entering]]:
    """Each stop's node, in execution order, before it runs, and the values of the nodes that stand with it.

    arguments: flat, for each input of the model.  Tensors of the module are read when a node needs them, so that a weight that is
    assigned at a stop counts from there on. Nothing runs after the last stop.
    """
    lanes = [_Lane(module, given) for given in arguments]
    last: dict[Node, Node] = {source: node for node in module.graph.nodes for source in (*node.all_input_nodes, *stops.get(node, ()))}
    remaining = len(stops)
    for node in list(module.graph.nodes):
        if node in stops:
            yield node, [tuple(lane.value(source) for source in stops[node]) for lane in lanes]
            remaining -= 1
        if not remaining:
            return
        if node.op not in ("get_attr", "output"):
            dead = [source for source in node.all_input_nodes if last[source] is node]
            for lane in lanes:
                lane.step(node, dead)


class _Lane(Interpreter):
    """The evaluation of one input so far."""

    def __init__(self, module: GraphModule, arguments: Sequence[Any]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.args_iter = iter(arguments)

    def value(self, node: Node) -> Any:
        return self.run_node(node) if node.op == "get_attr" else self.env[node]

    def step(self, node: Node, dead: Sequence[Node]) -> None:
        with torch.no_grad():
            read = [source for source in node.all_input_nodes if source.op == "get_attr"]
            self.env.update({source: self.run_node(source) for source in read})
            self.env[node] = self.run_node(node)
        for source in {*read, *dead}:
            del self.env[source]
