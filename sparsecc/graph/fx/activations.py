"""Which activation follows a node of an aten graph, told by what the elementwise operators after it compute."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from sparsecc.graph.activations import MOST_NODES, POINTS, recognize
from sparsecc.graph.fx.layers import aten, stored

ELEMENTWISE = frozenset(
    {
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.rsub.Scalar, aten.mul.Tensor, aten.mul.Scalar),
        *(aten.div.Tensor, aten.div.Scalar, aten.pow.Tensor_Scalar, aten.square.default, aten.neg.default, aten.exp.default),
        *(aten.erf.default, aten.tanh.default, aten.sigmoid.default, aten.softplus.default, aten.log1p.default, aten.relu.default),
        *(aten.relu6.default, aten.gelu.default, aten.silu.default, aten.mish.default, aten.hardswish.default),
        *(aten.hardsigmoid.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default),
        *(aten.elu.default, aten.leaky_relu.default, aten.reciprocal.default),
    }
)


def activation_after(node: Node) -> tuple[str, Node] | None:
    """Name and result of the activation that alone consumes a node, or None.

    The result is what the next layer reads: reshapes on the way there are passed, those before the activation too.
    Grows the group of elementwise operators and compares its one result with the known functions, so that a GELU is found
    however it is written.
    """
    computed: dict[Node, Tensor] = {_past_reshapes(node): POINTS}
    found = None
    while len(computed) <= MOST_NODES and (following := _next(computed)) is not None:
        computed[following] = _evaluate(following, computed)
        result = _only_result(computed)
        name = recognize(computed[result]) if result is not None else None
        if name is not None and result is not None:
            found = name, _past_reshapes(result)  # not the end: relu(x) may go on to be relu(x)²
    return found


def _past_reshapes(node: Node) -> Node:
    """Follows the only reader as long as it just reshapes: GPT-2 flattens its tokens before every layer."""
    while len(node.users) == 1 and next(iter(node.users)).target in (aten.view.default, aten.reshape.default):
        node = next(iter(node.users))
    return node


def _next(computed: dict[Node, Tensor]) -> Node | None:
    """An elementwise operator all of whose operands are computed already, or single numbers."""
    for node in computed:
        for user in node.users:
            if user not in computed and user.target in ELEMENTWISE and all(_known(operand, computed) for operand in user.all_input_nodes):
                return user
    return None


def _known(operand: Node, computed: dict[Node, Tensor]) -> bool:
    number = stored(operand)
    return operand in computed or (number is not None and math.prod(number.shape) == 1)


def _evaluate(node: Node, computed: dict[Node, Tensor]) -> Tensor:
    def value(operand: Node) -> Any:
        number = stored(operand)
        return computed[operand] if number is None else torch.tensor(number.item(), dtype=torch.float64)

    args, kwargs = map_arg((node.args, node.kwargs), value)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _only_result(computed: dict[Node, Tensor]) -> Node | None:
    """The one node that anything outside the group reads; None when there are several."""
    read = [node for node in computed if any(user not in computed for user in node.users)]
    return read[0] if len(read) == 1 else None
