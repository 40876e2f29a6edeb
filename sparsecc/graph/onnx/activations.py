"""Which activation follows a value, told by what the operators after it compute.

Exporters write one GELU or hard-swish in a dozen ways. Instead of a pattern for each, the elementwise operators that the value
alone feeds are evaluated on sample points, and the result is compared with the known functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.graph.activations import MOST_NODES, POINTS, recognize
from sparsecc.graph.onnx.fold import constant

_Evaluate = Callable[..., Tensor]
ELEMENTWISE: dict[str, Callable[[ir.Node], _Evaluate]] = {
    "Add": lambda _: torch.add,
    "Sub": lambda _: torch.sub,
    "Mul": lambda _: torch.mul,
    "Div": lambda _: torch.div,
    "Pow": lambda _: torch.pow,
    "Max": lambda _: torch.maximum,
    "Min": lambda _: torch.minimum,
    "Neg": lambda _: torch.neg,
    "Exp": lambda _: torch.exp,
    "Erf": lambda _: torch.erf,
    "Tanh": lambda _: torch.tanh,
    "Sigmoid": lambda _: torch.sigmoid,
    "Softplus": lambda _: functional.softplus,
    "Relu": lambda _: torch.relu,
    "HardSwish": lambda _: functional.hardswish,
    "Mish": lambda _: functional.mish,
    "Identity": lambda _: torch.clone,
    "Gelu": lambda node: lambda x: functional.gelu(x, approximate=node.attributes.get_string("approximate", "none")),
    "Swish": lambda node: lambda x: x * torch.sigmoid(node.attributes.get_float("alpha", 1.0) * x),
    "HardSigmoid": lambda node: lambda x: _hard_sigmoid(x, node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)),
    "Clip": lambda _: _clip,
}


@dataclass(frozen=True)
class Activation:
    """nodes: the operators it is made of.  output: what they compute."""

    name: str
    nodes: tuple[ir.Node, ...]
    output: ir.Value


def activation_of(value: ir.Value) -> Activation | None:
    """The activation that alone consumes a value, or None. Grows the group of operators until its one result is a known function."""
    computed: dict[ir.Value, Tensor] = {value: POINTS}
    nodes: list[ir.Node] = []
    while len(nodes) < MOST_NODES:
        node = _next(computed, nodes)
        if node is None:
            return None
        nodes.append(node)
        computed[node.outputs[0]] = _evaluate(node, computed)
        result = _only_result(computed, nodes)
        name = recognize(computed[result]) if result is not None else None
        if name is not None and result is not None:
            return Activation(name, tuple(nodes), result)
    return None


def _next(computed: dict[ir.Value, Tensor], nodes: list[ir.Node]) -> ir.Node | None:
    """An operator all of whose inputs are known: computed already, or single constants."""
    for value in computed:
        for use in value.uses():
            node = use.node
            if node in nodes or node.domain != "" or node.op_type not in ELEMENTWISE or len(node.outputs) != 1:
                continue
            if all(operand is None or operand in computed or _number(operand) is not None for operand in node.inputs):
                return node
    return None


def _only_result(computed: dict[ir.Value, Tensor], nodes: list[ir.Node]) -> ir.Value | None:
    """The one value that anything outside the group reads; None when there are several."""
    seen = [v for v in computed if v.is_graph_output() or not v.uses() or any(use.node not in nodes for use in v.uses())]
    return seen[0] if len(seen) == 1 else None


def _evaluate(node: ir.Node, computed: dict[ir.Value, Tensor]) -> Tensor:
    operands = [None if i is None else computed[i] if i in computed else _number(i) for i in node.inputs]
    return ELEMENTWISE[node.op_type](node)(*operands)


def _number(value: ir.Value) -> Tensor | None:
    if value.const_value is None or math.prod(value.const_value.shape.numpy()) != 1:
        return None
    array = constant(value)
    return None if array is None or array.dtype.kind not in "fiu" else torch.tensor(float(array.reshape(-1)[0]), dtype=torch.float64)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else x.clamp(low, high)
