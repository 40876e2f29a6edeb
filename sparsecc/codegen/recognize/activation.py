"""Activations that a model spells out in arithmetic: gelu, silu, relu6, hardswish, hardsigmoid."""

from __future__ import annotations

import math

from sparsecc.codegen.recognize.program import Expr, Node, Program, dtype
from sparsecc.codegen.tvm_api import relax


def become(program: Program, node: Node, op: str, args: list[Expr]) -> None:
    """Let a node compute something else from now on."""
    node.op, node.args = op, args
    program.producer[node.var] = node


def _factors(program: Program, expr: Expr) -> list[Expr]:
    """A product as its factors; x / c counts as x · (1/c) through `_value`."""
    node = program.node(expr)
    if node is not None and node.op == "multiply":
        return [factor for arg in node.args for factor in _factors(program, arg)]
    return [expr]


def gelu(program: Program, node: Node) -> None:
    """x · ½ · (1 + erf(x / √2)), the factors in any order."""
    if node.op != "multiply":
        return
    factors = _factors(program, node.var)
    half = [f for f in factors if program.scalar(f) == 0.5]
    sums = [f for f in factors if (n := program.node(f)) is not None and n.op == "add"]
    others = [f for f in factors if not any(f is h for h in half) and not any(f is s for s in sums)]
    if len(half) == 1 and len(sums) == 1 and len(others) == 1 and _is_one_plus_erf(program, sums[0], others[0]):
        become(program, node, "gelu", [others[0]])


def _is_one_plus_erf(program: Program, total: Expr, x: Expr) -> bool:
    terms = program.producer[total].args
    erf = next((n for t in terms if (n := program.node(t)) is not None and n.op == "erf"), None)
    if erf is None or not any(program.scalar(t) == 1.0 for t in terms):
        return False
    inner = program.node(erf.args[0])
    if inner is None or inner.op not in ("multiply", "divide"):
        return False
    a, b = inner.args
    scale = program.scalar(b) if program.scalar(b) is not None else program.scalar(a)
    if scale is None or (a != x if program.scalar(b) is not None else b != x):
        return False
    return abs((1 / scale if inner.op == "divide" else scale) - 1 / math.sqrt(2)) < 1e-5


def silu(program: Program, node: Node) -> None:
    """x · sigmoid(x) is silu."""
    if node.op != "multiply":
        return
    for x, gate in (node.args, node.args[::-1]):
        inner = program.node(gate)
        if inner is not None and inner.op == "sigmoid" and isinstance(x, relax.Var) and inner.args[0] == x:
            become(program, node, "silu", [x])
            return


def _bounds(node: Node) -> tuple[Expr, float, float] | None:
    """(x, low, high) of a clip."""
    if node.op != "clip":
        return None
    low, high = (_number(arg) for arg in node.args[1:3])
    return (node.args[0], low, high) if low is not None and high is not None else None


def _number(expr: Expr) -> float | None:
    value = getattr(expr, "value", None)
    value = getattr(value, "value", value)
    return float(value) if isinstance(value, (int, float)) else None


def clip6(program: Program, node: Node) -> None:
    bounds = _bounds(node)
    if bounds is not None and bounds[1:] == (0.0, 6.0) and dtype(node.var) == "float32":
        inner = program.node(bounds[0])
        plus3 = inner is not None and inner.op == "add" and any(program.scalar(a) == 3.0 for a in inner.args)
        if not plus3:  # otherwise it is a part of hardswish
            become(program, node, "relu6", [bounds[0]])


def hardswish(program: Program, node: Node) -> None:
    """x · clip(x + 3, 0, 6) / 6 or x · clip(x/6 + ½, 0, 1), the factors in any order."""
    if node.op not in ("multiply", "divide") or dtype(node.var) != "float32":
        return
    number, factors = _product(program, node.var)
    for x, gate in (factors, factors[::-1]) if len(factors) == 2 else ():
        if isinstance(x, relax.Var) and _is_hard_gate(program, gate, x, number):
            become(program, node, "hardswish", [x])
            return


def hardsigmoid(program: Program, node: Node) -> None:
    """clip(x + 3, 0, 6) / 6 or clip(x/6 + ½, 0, 1), where no hardswish has it."""
    if node.op not in ("multiply", "divide", "clip") or dtype(node.var) != "float32":
        return
    number, factors = _product(program, node.var)
    clip = program.node(factors[0]) if len(factors) == 1 else None
    bounds = _bounds(clip) if clip is not None else None
    plus = program.node(bounds[0]) if bounds is not None else None
    for term in plus.args if plus is not None else ():
        x = _product(program, term)[1]
        if len(x) == 1 and isinstance(x[0], relax.Var) and _is_hard_gate(program, factors[0], x[0], number):
            become(program, node, "hardsigmoid", x)
            return


def _product(program: Program, expr: Expr) -> tuple[float, list[Expr]]:
    """A product as its number and its other factors."""
    node, number = program.node(expr), program.scalar(expr)
    if number is not None:
        return number, []
    if node is not None and node.op == "divide" and (divisor := program.scalar(node.args[1])):
        number, factors = _product(program, node.args[0])
        return number / divisor, factors
    if node is not None and node.op == "multiply":
        (a, left), (b, right) = (_product(program, arg) for arg in node.args)
        return a * b, left + right
    return 1.0, [expr]


def _is_hard_gate(program: Program, gate: Expr, x: Expr, number: float) -> bool:
    """Whether number · gate is hardsigmoid(x), with gate = clip(scale·x + scale·3, 0, scale·6)."""
    clip = program.node(gate)
    bounds = _bounds(clip) if clip is not None else None
    plus = program.node(bounds[0]) if bounds is not None else None
    if bounds is None or plus is None or plus.op != "add" or bounds[1] != 0 or abs(number * bounds[2] - 1) > 1e-6:
        return False
    scale = bounds[2] / 6
    for term, shift in (plus.args, plus.args[::-1]):
        factor, factors = _product(program, term)
        half = program.scalar(shift)
        if half is not None and abs(half - 3 * scale) < 1e-6 and abs(factor - scale) < 1e-6 and len(factors) == 1 and factors[0] == x:
            return True
    return False
