"""Elementary functions as TensorIR expressions that vectorize: libm calls inside a loop are made lane by lane.

Polynomials are fitted here for fp32; tests/codegen/cpu/pieces/test_math.py measures the largest errors over the whole range.
Activations are off by less than 3e-7·max(1, |x|), what exp, tanh and erf promise stands there.
NaN stays NaN: T.max(a, b) is `a > b ? a : b`, hence the constants come first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sparsecc.codegen.tvm_api import T, tirx

Expr = Any
LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723e-6  # Cody-Waite: the high part has few bits, so n·high is exact


def _f(value: float) -> Expr:
    return T.float32(value)


def _horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    """coefficients: highest power first."""
    return functools.reduce(lambda total, c: total * x + _f(c), coefficients[1:], _f(coefficients[0]))


def exp(x: Expr) -> Expr:
    """2ⁿ·eʳ with x = n·ln 2 + r, |r| ≤ ln 2 / 2, made as 2ⁿ⁻¹·2eʳ so that the largest results need no 2¹²⁸.

    Relative error below 3e-7 in [-86.9, 88.72]; infinite above, 0 below, where the true value is less than 2e-38.
    """
    x = T.max(_f(-87.3), T.min(_f(89.0), x))
    n = T.floor(x * _f(LOG2E) + _f(0.5))
    r = x - n * _f(_LN2_HIGH) - n * _f(_LN2_LOW)
    p = _horner(r, (2 / 720, 2 / 120, 2 / 24, 2 / 6, 1.0, 2.0, 2.0))
    exponent = T.Cast(_like(x, "int32"), n) + _int(x, 126)
    return p * tirx.reinterpret(_like(x, "float32"), T.shift_left(exponent, _int(x, 23)))


def exp2(x: Expr, coarse: bool = False) -> Expr:
    """2ⁿ·2ˣ⁻ⁿ with n = x rounded, for x up to 127; for the softmax of scores that come times log₂ e.

    Added to n, 1.5·2²³ + 127 leaves n + 127, the exponent of 2ⁿ, in the lowest bits. Relative error below 3e-7, coarse below 8e-5, in
    [-126, 127]; 0 below -126.5.
    """
    x = T.max(_f(-127.0), x)
    n = T.nearbyint(x)
    exponent = tirx.reinterpret(_like(x, "int32"), n + _f(12582912.0 + 127.0))
    power = tirx.reinterpret(_like(x, "float32"), T.shift_left(exponent, _int(x, 23)))
    return _horner(x - n, _EXP2_COARSE if coarse else _EXP2) * power


_EXP2 = (0.0013276472454890609, 0.009675541892647743, 0.05550713092088699, 0.24022120237350464, 0.6931469440460205, 1.0000001192092896)
_EXP2_COARSE = (0.0551716685295105, 0.2426111400127411, 0.6932609677314758, 0.9999280571937561)


def _like(x: Expr, dtype: str) -> str:
    """`dtype` with as many lanes as x."""
    lanes = int(x.ty.dtype.lanes)
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _int(x: Expr, value: int) -> Expr:
    lanes = int(x.ty.dtype.lanes)
    return T.int32(value) if lanes == 1 else T.Broadcast(T.int32(value), lanes)


def sigmoid(x: Expr) -> Expr:
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def tanh(x: Expr) -> Expr:
    """Odd series near zero, where 1 - 2/(e²ˣ+1) would cancel. Absolute error below 3e-7, relative below 3e-6."""
    square = x * x
    small = x * _horner(square, (-17 / 315, 2 / 15, -1 / 3, 1.0))
    large = _f(1.0) - _f(2.0) / (exp(x + x) + _f(1.0))
    return T.Select(square < _f(0.0025), small, large)


def erf(x: Expr) -> Expr:
    """x·P(x²)/Q(x²), fitted for |x| ≤ 3.92, beyond which fp32 has nothing but ±1; absolute error below 5e-7.

    P is 1.3e-7 too large, so that the end of the range rounds to 1 or more and is cut to exactly 1: gelu(-∞) is 0 and not a rest times ∞.
    No exponential: gelu is 1.4 times as fast as with the classic forms.
    """
    z = T.max(_f(-_ERF_END), T.min(_f(_ERF_END), x))
    square = z * z
    quotient = z * _horner(square, _ERF_P) / _horner(square, _ERF_Q)
    return T.max(_f(-1.0), T.min(_f(1.0), quotient))


_ERF_END = 3.92
_ERF_P = (2.0346869860077277e-06, 0.00028747960459440947, 0.003868433879688382, 0.05306081846356392, 0.19276686012744904, 1.128379225730896)
_ERF_Q = (3.807014581980184e-05, 0.0011881365207955241, 0.015172514133155346, 0.11508572846651077, 0.504166841506958, 1.0)


def sinh(x: Expr) -> Expr:
    """Odd series near zero, where (eˣ - e⁻ˣ)/2 would cancel. Relative error below 1e-6 up to |x| = 88."""
    square = x * x
    small = x * _horner(square, (1 / 362880, 1 / 5040, 1 / 120, 1 / 6, 1.0))
    return T.Select(square < _f(1.0), small, _f(0.5) * (exp(x) - exp(_f(0.0) - x)))


def cosh(x: Expr) -> Expr:
    """Relative error below 1e-6 up to |x| = 88."""
    return _f(0.5) * (exp(x) + exp(_f(0.0) - x))


def relu(x: Expr) -> Expr:
    return T.max(_f(0.0), x)


def gelu(x: Expr) -> Expr:
    return _f(0.5) * x * (_f(1.0) + erf(x * _f(0.7071067811865476)))


def gelu_tanh(x: Expr) -> Expr:
    return _f(0.5) * x * (_f(1.0) + tanh(_f(0.7978845608028654) * (x + _f(0.044715) * x * x * x)))


def silu(x: Expr) -> Expr:
    return x * sigmoid(x)


def hardsigmoid(x: Expr) -> Expr:
    return T.max(_f(0.0), T.min(_f(1.0), x * _f(1 / 6) + _f(0.5)))


def hardswish(x: Expr) -> Expr:
    return x * hardsigmoid(x)


def relu6(x: Expr) -> Expr:
    return T.max(_f(0.0), T.min(_f(6.0), x))


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    f.__name__: f for f in (relu, gelu, gelu_tanh, silu, sigmoid, tanh, hardsigmoid, hardswish, relu6)
}
