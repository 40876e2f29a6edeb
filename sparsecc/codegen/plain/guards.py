"""Operators that end the process, or leave memory, for some values of their operands: given operands for which they do neither.

What a caller passes is refused where `limits` finds that it matters; what a model computes gives some defined result:

    a / 0 = 0,  a mod 0 = 0,  least / -1 = least        integers, where x86 raises a signal
    an index outside its table: the entry modulo its size;  a region of an image that is not there: of the first
    a sampled coordinate far outside, or NaN: one outside
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsecc.codegen.plain.tensors import Tensors
from sparsecc.codegen.recognize.limits import REGIONS, divides_integers, tables
from sparsecc.codegen.recognize.program import Expr, Node, dtype, shape
from sparsecc.codegen.tvm_api import relax

_FAR = 2.0**24  # pixels: every float32 below is an int32


def guarded_division(tensors: Tensors, node: Node) -> Expr | None:
    """Of integers by what may be 0 or -1; None for any other node."""
    if not divides_integers(node):
        return None
    divisors = tensors.program.constant(node.args[1])
    if divisors is not None and not np.isin(divisors, (0, _minus_one(divisors.dtype))).any():
        return None
    a, b = (tensors.natural(arg) for arg in node.args)
    kind, op = dtype(node.var), relax.op
    zero, one = relax.const(0, kind), relax.const(1, kind)
    by_zero = tensors.op(op.equal(b, zero))
    by_minus_one = None if kind.startswith("u") else tensors.op(op.equal(b, relax.const(-1, kind)))
    special = by_zero if by_minus_one is None else tensors.op(op.logical_or(by_zero, by_minus_one))
    safe = tensors.op(op.where(special, one, b))
    result = tensors.op(relax.Call(node.expr.op, [a, safe], node.expr.attrs))
    if by_minus_one is not None:
        negated = zero if node.op in ("mod", "floor_mod") else _negated(tensors, a, kind)
        result = tensors.op(op.where(by_minus_one, negated, result))
    return tensors.op(op.where(by_zero, zero, result))


def guarded_operands(tensors: Tensors, node: Node) -> list[Expr]:
    """A node's operands, indices inside their tables."""
    indexed = tables(node)
    operands = [tensors.natural(arg) for arg in node.args]
    for place, sizes in indexed.items():
        operands[place] = _inside(tensors, operands[place], sizes)
    if node.op in REGIONS:
        operands[1] = _of_an_image(tensors, operands[1], shape(node.args[0])[0])
    if node.op == "image.grid_sample":
        operands[1] = _near(tensors, operands[1], _FAR / max(shape(node.args[0])[2:]))
    return operands


def _inside(tensors: Tensors, index: Expr, sizes: tuple[int, ...]) -> Expr:
    """The index modulo the table's size, as `take` in mode "wrap": from the end if negative, in the table even if wrong."""
    size = relax.const(np.array(sizes, dtype(index)).squeeze(), dtype(index))
    return tensors.op(relax.op.floor_mod(index, size))


def _of_an_image(tensors: Tensors, regions: Expr, images: int) -> Expr:
    """regions: [n, 5] of (image, x, y, x, y); those of an image that is not there are of the first, and NaN is 0."""
    op, last, kind = relax.op, shape(regions)[1], dtype(regions)
    zero = relax.const(0, kind)
    number = tensors.op(op.equal(regions, regions))
    regions = tensors.op(op.where(number, regions, zero))
    image = tensors.op(op.strided_slice(regions, [1], [0], [1]))
    place = tensors.op(op.strided_slice(regions, [1], [1], [last]))
    there = tensors.op(op.logical_and(tensors.op(op.greater_equal(image, zero)), tensors.op(op.less(image, relax.const(images, kind)))))
    return tensors.op(op.concat([tensors.op(op.where(there, image, zero)), place], axis=1))


def _near(tensors: Tensors, grid: Expr, most: float) -> Expr:
    far = relax.const(most, dtype(grid))
    number = tensors.op(relax.op.where(tensors.op(relax.op.equal(grid, grid)), grid, far))
    return tensors.op(relax.op.maximum(tensors.op(relax.op.minimum(number, far)), relax.const(-most, dtype(grid))))


def _negated(tensors: Tensors, x: Expr, kind: str) -> Expr:
    """The least has no positive and stays as it is. TVM 0.27 takes an unsigned 0 - x for 0."""
    least = tensors.op(relax.op.equal(x, relax.const(np.iinfo(kind).min, kind)))
    return tensors.op(relax.op.where(least, x, tensors.op(relax.op.negative(x))))


def _minus_one(kind: np.dtype[Any]) -> int:
    return -1 if kind.kind == "i" else 0
