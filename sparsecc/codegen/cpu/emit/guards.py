"""Operators that end the process, or leave memory, for some values of their operands: given operands for which they do neither.

What a caller passes is refused where `limits` finds that it matters; what a model computes gives some defined result:

    a / 0 = 0,  a mod 0 = 0,  least / -1 = least        integers, where x86 raises a signal
    an index outside its table: the entry modulo its size;  a region of an image that is not there: of the first
    a sampled coordinate far outside, or NaN: one outside
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsecc.codegen.cpu.forms import Forms
from sparsecc.codegen.cpu.layout import Value
from sparsecc.codegen.recognize.limits import REGIONS, divides_integers, tables
from sparsecc.codegen.recognize.program import Expr, Node, dtype, shape
from sparsecc.codegen.tvm_api import relax

_FAR = 2.0**24  # pixels: every float32 below is an int32


def guarded_division(forms: Forms, node: Node) -> Value | None:
    """Of integers by what may be 0 or -1; None for any other node."""
    if not divides_integers(node):
        return None
    divisors = forms.program.constant(node.args[1])
    if divisors is not None and not np.isin(divisors, (0, _minus_one(divisors.dtype))).any():
        return None
    a, b = (forms.natural(arg) for arg in node.args)
    kind, op = dtype(node.var), relax.op
    zero, one = relax.const(0, kind), relax.const(1, kind)
    by_zero = forms.op(op.equal(b, zero))
    special = by_zero
    if not kind.startswith("u"):
        by_minus_one = forms.op(op.equal(b, relax.const(-1, kind)))
        special = forms.op(op.logical_or(by_zero, by_minus_one))
    safe = forms.op(op.where(special, one, b))
    result = forms.op(relax.Call(node.expr.op, [a, safe], node.expr.attrs))
    if not kind.startswith("u"):
        negated = zero if node.op in ("mod", "floor_mod") else _negated(forms, a, kind)
        result = forms.op(op.where(by_minus_one, negated, result))
    return Value(shape(node.var), natural=forms.op(op.where(by_zero, zero, result)))


def guarded_operands(forms: Forms, node: Node) -> list[Expr]:
    """A node's operands, indices inside their tables."""
    indexed = tables(node)
    operands = [forms.natural(arg) for arg in node.args]
    for place, sizes in indexed.items():
        operands[place] = _inside(forms, operands[place], sizes)
    if node.op in REGIONS:
        operands[1] = _of_an_image(forms, operands[1], shape(node.args[0])[0])
    if node.op == "image.grid_sample":
        operands[1] = _near(forms, operands[1], _FAR / max(shape(node.args[0])[2:]))
    return operands


def _inside(forms: Forms, index: Expr, sizes: tuple[int, ...]) -> Expr:
    """The index modulo the table's size, as `take` in mode "wrap": from the end if negative, in the table even if wrong."""
    size = relax.const(np.array(sizes, dtype(index)).squeeze(), dtype(index))
    return forms.op(relax.op.floor_mod(index, size))


def _of_an_image(forms: Forms, regions: Expr, images: int) -> Expr:
    """regions: [n, 5] of (image, x, y, x, y); those of an image that is not there are of the first, and NaN is 0."""
    op, last, kind = relax.op, shape(regions)[1], dtype(regions)
    zero = relax.const(0, kind)
    number = forms.op(op.equal(regions, regions))
    regions = forms.op(op.where(number, regions, zero))
    image = forms.op(op.strided_slice(regions, [1], [0], [1]))
    place = forms.op(op.strided_slice(regions, [1], [1], [last]))
    there = forms.op(op.logical_and(forms.op(op.greater_equal(image, zero)), forms.op(op.less(image, relax.const(images, kind)))))
    return forms.op(op.concat([forms.op(op.where(there, image, zero)), place], axis=1))


def _near(forms: Forms, grid: Expr, most: float) -> Expr:
    far = relax.const(most, dtype(grid))
    number = forms.op(relax.op.where(forms.op(relax.op.equal(grid, grid)), grid, far))
    return forms.op(relax.op.maximum(forms.op(relax.op.minimum(number, far)), relax.const(-most, dtype(grid))))


def _negated(forms: Forms, x: Expr, kind: str) -> Expr:
    """The least has no positive and stays as it is. TVM 0.27 takes an unsigned 0 - x for 0."""
    least = forms.op(relax.op.equal(x, relax.const(np.iinfo(kind).min, kind)))
    return forms.op(relax.op.where(least, x, forms.op(relax.op.negative(x))))


def _minus_one(kind: np.dtype[Any]) -> int:
    return -1 if kind.kind == "i" else 0
