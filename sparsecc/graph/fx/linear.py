"""Spelling linear layers as `linear` or `matmul` with a stored matrix, which is what sites are found by.

matmul(x, W[1, in, out])           ->  matmul(x, view(W))
einsum(x, W)                       ->  matmul between views, where one set of axes is summed over and no other is shared

Views of weights are computed once by `fx_fold`, which runs after this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch.fx import GraphModule, Node

from sparsecc.graph import einsums
from sparsecc.graph.fx.layers import aten, stored


def spell(module: GraphModule) -> None:
    """Rewrite in place."""
    for node in list(module.graph.nodes):
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is not None:
            rule(node)


def _matmul(node: Node) -> None:
    x, weight = node.args
    array = stored(weight)
    if array is None or array.dim() < 3 or any(size != 1 for size in array.shape[:-2]):
        return
    if not isinstance(x, Node) or stored(x) is not None or x.meta["val"].dim() < array.dim():
        return  # the product has the rank of the weight
    node.replace_input_with(weight, _call(node, aten.view.default, weight, list(array.shape[-2:])))  # type: ignore[arg-type]


def _einsum(node: Node) -> None:
    equation, operands = node.args[:2]
    places = [place for place, operand in enumerate(operands) if stored(operand) is not None]  # type: ignore[arg-type, union-attr]
    if len(operands) != 2 or len(places) != 1:  # type: ignore[arg-type]
        return
    x, weight = (cast("Node", operands[place]) for place in (1 - places[0], places[0]))  # type: ignore[index]
    ranks = tuple(operand.meta["val"].dim() for operand in operands)  # type: ignore[union-attr]
    found = einsums.linear(str(equation), ranks, places[0])
    if found is None:
        return
    matrix = _turned(node, weight, found.turn_weight)
    kept = list(matrix.meta["val"].shape[-found.outputs :])
    if len(found.turn_weight) > 2:
        matrix = _call(node, aten.reshape.default, matrix, [-1, math.prod(kept)])
    stays = len(found.turn_x) - found.summed
    x = _turned(node, x, found.turn_x)
    if found.summed > 1:
        x = _call(node, aten.flatten.using_ints, x, stays, -1)
    y = _call(node, aten.matmul.default, x, matrix)
    y.meta = {**node.meta, "val": y.meta["val"]}
    if len(kept) > 1:
        y = _call(node, aten.unflatten.int, y, -1, kept)
    y = _turned(node, y, found.unturn)
    node.replace_all_uses_with(y)
    node.graph.erase_node(node)


def _turned(node: Node, x: Node, axes: Sequence[int]) -> Node:
    return x if list(axes) == sorted(axes) else _call(node, aten.permute.default, x, list(axes))


def _call(before: Node, target: Any, x: Node, *args: Any) -> Node:
    with before.graph.inserting_before(before):
        node = before.graph.call_function(target, (x, *args))
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    node.meta["val"] = target(x.meta["val"], *values)
    return node


_RULES = {aten.matmul.default: _matmul, aten.einsum.default: _einsum}
