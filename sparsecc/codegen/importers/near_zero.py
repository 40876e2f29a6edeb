"""Functions whose plain formulas lose what is small: by these words ln(1 + x) is 0 for an x of 1e-8, and 1 - erf(4) is 0.

Those are TVM's. These keep the digits that a float32 has, for all arguments, infinities included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsecc.codegen.tvm_api import relax

Emit = Callable[[Any], Any]
Function = Callable[[Emit, Any], Any]

# ln(erfc(z) · e^(z²) / t) as a polynomial of t = 1 / (1 + z/2), lowest first: fitted to z from 0.45 to 12, within 7e-9.
_TAIL = (-1.26553205, 1.00061089, 0.366908036, 0.144221961, -0.373224643, 0.737818854, -1.84254234, 2.15324437, -1.17005774, 0.248579396)
_TAIL_FROM = 0.5  # where 1 - erf begins to lose digits
_SERIES, _SERIES_TO = [2 / (2 * k + 1) for k in range(6)], 0.25  # within 1e-9 there
_SQUARED = 1e4  # above it, 1 + x² is x², which may overflow


def _log1p(emit: Emit, x: Any) -> Any:
    """ln(1 + x), and around 0 the series 2 · (s + s³/3 + s⁵/5 + ..), s = x / (2 + x). That ln(u) · x / (u - 1) is as exact does not help:
    TVM makes x of (1 + x) - 1."""
    s = emit(relax.op.divide(x, relax.op.add(_const(x, 2), x)))
    series = relax.op.multiply(s, _polynomial(emit, emit(relax.op.multiply(s, s)), _SERIES))
    near = relax.op.less(relax.op.abs(x), _const(x, _SERIES_TO))
    return emit(relax.op.where(near, series, relax.op.log(relax.op.add(x, _const(x, 1)))))


def _expm1(emit: Emit, x: Any) -> Any:
    """tanh(x/2) · (e^x + 1)"""
    half = emit(relax.op.tanh(relax.op.multiply(x, _const(x, 0.5))))
    return emit(relax.op.multiply(half, relax.op.add(relax.op.exp(x), _const(x, 1))))


def _sinh(emit: Emit, x: Any) -> Any:
    """tanh(x) · cosh(x)"""
    return emit(relax.op.multiply(relax.op.tanh(x), relax.op.cosh(x)))


def _asinh(emit: Emit, x: Any) -> Any:
    """sign(x) · log1p(a + a² / (1 + √(1 + a²))), a = |x|; for large ones, ln(a) + ln(2)."""
    a, one = emit(relax.op.abs(x)), _const(x, 1)
    large = emit(relax.op.greater(a, _const(x, _SQUARED)))
    small = emit(relax.op.where(large, one, a))
    square = emit(relax.op.multiply(small, small))
    root = emit(relax.op.sqrt(relax.op.add(one, square)))
    near = _log1p(emit, emit(relax.op.add(small, relax.op.divide(square, relax.op.add(one, root)))))
    far = relax.op.add(relax.op.log(a), _const(x, math.log(2)))
    return emit(relax.op.multiply(relax.op.sign(x), relax.op.where(large, far, near)))


def _atanh(emit: Emit, x: Any) -> Any:
    """½ · sign(x) · log1p(2a / (1 - a)), a = |x|"""
    a = emit(relax.op.abs(x))
    inner = emit(relax.op.divide(relax.op.multiply(_const(x, 2), a), relax.op.subtract(_const(x, 1), a)))
    return emit(relax.op.multiply(relax.op.multiply(relax.op.sign(x), _const(x, 0.5)), _log1p(emit, inner)))


def _erfc(emit: Emit, x: Any) -> Any:
    """1 - erf(x), and behind ½ what is left of it: t · e^(P(t) - x²), t = 1 / (1 + x/2)."""
    one, least = _const(x, 1), _const(x, _TAIL_FROM)
    z = emit(relax.op.maximum(x, least))
    t = emit(relax.op.divide(one, relax.op.add(one, relax.op.multiply(z, _const(x, 0.5)))))
    tail = relax.op.multiply(t, relax.op.exp(relax.op.subtract(_polynomial(emit, t, _TAIL), relax.op.multiply(z, z))))
    return emit(relax.op.where(relax.op.greater(x, least), tail, relax.op.subtract(one, relax.op.erf(x))))


def _polynomial(emit: Emit, x: Any, factors: Sequence[float]) -> Any:
    """factors: from the lowest power on."""
    *rest, value = (_const(x, factor) for factor in factors)
    for factor in reversed(rest):
        value = emit(relax.op.add(relax.op.multiply(value, x), factor))
    return value


def _const(x: Any, value: float) -> Any:
    return relax.const(value, x.ty.dtype.dtype)


def _wide(function: Function) -> Function:
    """In float32, where x has fewer bits."""

    def computed(emit: Emit, x: Any) -> Any:
        dtype = x.ty.dtype.dtype
        if dtype not in ("float16", "bfloat16"):
            return function(emit, x)
        return emit(relax.op.astype(function(emit, emit(relax.op.astype(x, "float32"))), dtype))

    return computed


FUNCTIONS: Mapping[str, Function] = {
    "log1p": _wide(_log1p),
    "expm1": _wide(_expm1),
    "sinh": _wide(_sinh),
    "asinh": _wide(_asinh),
    "atanh": _wide(_atanh),
    "erfc": _wide(_erfc),
}
