"""torch operators on single elements, and those that run along an axis, spelled in simpler ones, where neither torch nor TVM knows how."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
_Pair = tuple[Tensor, Tensor]


def _exp2(x: Tensor) -> Tensor:
    return torch.pow(2.0, _floating(x))


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    """The larger one taken out, so that no square overflows."""
    x, y = x.abs(), y.abs()
    large, small = torch.maximum(x, y), torch.minimum(x, y)
    plain = (large == 0) | (large == math.inf)
    ratio = torch.where(plain, torch.zeros_like(large), small / torch.where(plain, torch.ones_like(large), large))
    return large * torch.sqrt(1 + ratio * ratio)


def _signbit(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return torch.zeros_like(x, dtype=torch.bool) if x.dtype == torch.bool else x < 0
    return (x < 0) | ((x == 0) & (torch.reciprocal(x) < 0))


def _copysign(x: Tensor, sign: Tensor | float) -> Tensor:
    x = _floating(x)
    if not isinstance(sign, Tensor):
        return -x.abs() if math.copysign(1, sign) < 0 else x.abs()
    return torch.where(_signbit(sign), -x.abs(), x.abs())


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _var_mean(x: Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> _Pair:
    axes = dim or list(range(x.dim()))
    return torch.var(x, axes, correction=1 if correction is None else correction, keepdim=keepdim), torch.mean(x, axes, keepdim=keepdim)


def _isin(elements: Tensor, tests: Tensor, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """TVM sums booleans for it, which it cannot generate."""
    found = (elements.unsqueeze(-1) == tests.reshape(-1)).any(-1)
    return ~found if invert else found


def _kthvalue(x: Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> _Pair:
    values, indices = (part.narrow(dim, k - 1, 1) for part in torch.sort(x, dim=dim, stable=True))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def _scan(parts: tuple[Tensor, ...], dim: int, join: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Every prefix along an axis joined, in as many steps as its length has bits. join: (what is before, what comes) -> both as one."""
    length, step = parts[0].shape[dim], 1
    while step < length:
        before = tuple(part.narrow(dim, 0, length - step) for part in parts)
        here = tuple(part.narrow(dim, step, length - step) for part in parts)
        joined = join(before, here)
        parts = tuple(torch.cat([part.narrow(dim, 0, step), new], dim) for part, new in zip(parts, joined, strict=True))
        step *= 2
    return parts


def _extreme(better: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], _Pair]:
    """better: whether what comes takes the place of what is before; the last of equals does."""

    def cumulative(x: Tensor, dim: int) -> _Pair:
        if x.dim() == 0:
            return x.clone(), torch.zeros_like(x, dtype=torch.int64)
        places = torch.arange(x.shape[dim]).reshape([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())]).expand(x.shape)

        def join(before: _Pair, here: _Pair) -> _Pair:
            takes = better(here[0], before[0])
            return torch.where(takes, here[0], before[0]), torch.where(takes, here[1], before[1])

        values, indices = _scan((x, places), dim, join)
        return values, indices

    return cumulative


def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """ln(e^x + e^y), the larger one taken out."""
    apart = (x - y).abs()
    apart = torch.where(x == y, torch.zeros_like(apart), apart)  # of two infinities
    return torch.maximum(x, y) + torch.log1p(torch.exp(-apart))


def _logaddexp2(x: Tensor, y: Tensor) -> Tensor:
    """log2(2^x + 2^y)"""
    return _logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    if x.dim() == 0:
        return x.clone()

    def join(before: tuple[Tensor], here: tuple[Tensor]) -> tuple[Tensor]:
        return (_logaddexp(before[0], here[0]),)

    return _scan((x,), dim, join)[0]


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    outputs, left, right = weight.shape
    half = torch.matmul(x, weight.permute(1, 0, 2).reshape(left, outputs * right)).unflatten(-1, (outputs, right))
    result = torch.matmul(half, y.unsqueeze(-1)).squeeze(-1)
    return result if bias is None else result + bias


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    aten.exp2.default: _exp2,
    aten.hypot.default: _hypot,
    aten.signbit.default: _signbit,
    aten.copysign.Tensor: _copysign,
    aten.copysign.Scalar: _copysign,
    aten.var_mean.correction: _var_mean,
    aten.isin.Tensor_Tensor: _isin,
    aten.kthvalue.default: _kthvalue,
    aten.logaddexp.default: _logaddexp,
    aten.logaddexp2.default: _logaddexp2,
    aten.cummax.default: _extreme(torch.ge),
    aten.cummin.default: _extreme(torch.le),
    aten.logcumsumexp.default: _logcumsumexp,
    aten.bilinear.default: _bilinear,
}
