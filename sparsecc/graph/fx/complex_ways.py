"""Operators of complex numbers by real ones: each takes and gives a `Complex` where torch's takes and gives a complex tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsecc.graph.fx import fourier
from sparsecc.graph.fx.layers import aten


class Complex:
    """A complex value while a graph is run with real tensors in its place. pairs: [..., 2]."""

    def __init__(self, pairs: Tensor) -> None:
        self.pairs = pairs

    @property
    def real(self) -> Tensor:
        return self.pairs.select(-1, 0)

    @property
    def imag(self) -> Tensor:
        return self.pairs.select(-1, 1)


def _pair(real: Tensor, imag: Tensor) -> Complex:
    return Complex(torch.stack(torch.broadcast_tensors(real, imag), -1))


def _given(x: Any) -> Complex:
    """x, which may be real."""
    return x if isinstance(x, Complex) else _pair(x, torch.zeros_like(x))


def _parts(x: Any) -> tuple[Any, Any]:
    """Of a value, a real tensor or a number; 0 where nothing is imaginary."""
    return (x.real, x.imag) if isinstance(x, (Complex, complex)) else (x, 0)


def _is_real(x: Any) -> bool:
    return not isinstance(x, (Complex, complex))


def _multiply(a: Any, b: Any) -> Complex:
    if _is_real(a):
        a, b = b, a
    if _is_real(b) and isinstance(a, Complex):
        return Complex(a.pairs * (b.unsqueeze(-1) if isinstance(b, Tensor) else b))
    (a_real, a_imag), (b_real, b_imag) = _parts(a), _parts(b)
    return _pair(a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real)


def _add(sign: int) -> Callable[..., Complex]:
    def add(a: Any, b: Any, *, alpha: float = 1) -> Complex:
        (a_real, a_imag), (b_real, b_imag) = _parts(a), _parts(b)
        factor = sign * alpha
        real, imag = a_real + factor * b_real, a_imag + factor * b_imag
        return _pair(real, imag if isinstance(imag, Tensor) else torch.full_like(real, imag))

    return add


def _divide(a: Any, b: Any) -> Complex:
    if _is_real(b):
        return Complex(a.pairs / (b.unsqueeze(-1) if isinstance(b, Tensor) else b))
    if isinstance(b, complex):
        return _multiply(a, 1 / b)
    size = (b.pairs * b.pairs).sum(-1)
    return _multiply(_multiply(a, _conjugate(b)), 1 / size)


def _conjugate(x: Complex) -> Complex:
    return _pair(x.real, -x.imag)


def _exponential(x: Complex) -> Complex:
    size = x.real.exp()
    return _pair(size * x.imag.cos(), size * x.imag.sin())


def _bilinear(op: Callable[[Any, Any], Tensor]) -> Callable[..., Complex]:
    """A product of some kind: op(a, b), each part of a with each part of b."""

    def product(a: Any, b: Any) -> Complex:
        if _is_real(a):
            return _pair(op(a, b.real), op(a, b.imag))
        if _is_real(b):
            return _pair(op(a.real, b), op(a.imag, b))
        return _pair(op(a.real, b.real) - op(a.imag, b.imag), op(a.real, b.imag) + op(a.imag, b.real))

    return product


def _einsum(equation: str, operands: Any, **_: Any) -> Complex:
    value, *others = operands
    if not others:
        return _pair(aten.einsum.default(equation, [value.real]), aten.einsum.default(equation, [value.imag]))
    if len(others) > 1:
        raise NotImplementedError("an einsum of more than two complex operands")
    return _bilinear(lambda a, b: aten.einsum.default(equation, [a, b]))(value, *others)


def _cast(x: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Complex | Tensor:
    if dtype is not None and not dtype.is_complex:
        return x.real.to(dtype)
    if dtype is None:
        return x
    real = dtype.to_real()
    return Complex(x.pairs.to(real)) if isinstance(x, Complex) else _given(x.to(real))


def _filled(value: float) -> Callable[..., Complex]:
    """A new value of this real number."""

    def fill(sizes: Any, *, dtype: torch.dtype, **_: Any) -> Complex:
        real = torch.full([*sizes], value, dtype=dtype.to_real())
        return _given(real)

    return fill


def _along(op: Callable[..., Tensor]) -> Callable[..., Complex]:
    """An operator that moves elements along axes counted from the front or the back, the pairs staying last."""

    def moved(x: Complex, *axes: Any, **options: Any) -> Complex:
        return Complex(op(x.pairs, x.pairs.dim() - 1, *axes, **options))

    return moved


def _front(axis: int, dims: int) -> int:
    return axis % dims if dims else 0


def _reshaped(x: Complex, shape: Any) -> Complex:
    return Complex(x.pairs.reshape([*shape, 2]))


def _together(op: Callable[..., Tensor], more: int) -> Callable[..., Complex]:
    """cat or stack of values, of which some may be real.  more: axes of the result beside those of an operand."""

    def joined(values: Any, dim: int = 0) -> Complex:
        pairs = [_given(value).pairs for value in values]
        return Complex(op(pairs, _front(dim, pairs[0].dim() - 1 + more)))

    return joined


def _written(x: Any, source: Any, dim: int = 0, *bounds: Any) -> Complex:
    x, source = _given(x), _given(source)
    return Complex(aten.slice_scatter.default(x.pairs, source.pairs, _front(dim, x.pairs.dim() - 1), *bounds))


def _padded(x: Complex, sides: Any, value: float = 0) -> Complex:
    pairs = aten.constant_pad_nd.default(x.pairs, [0, 0, *sides], 0)
    return Complex(pairs) if not value else _add(1)(Complex(pairs), _outside(x.real, sides, value))


def _outside(x: Tensor, sides: Any, value: float) -> Tensor:
    return aten.constant_pad_nd.default(torch.zeros_like(x), sides, value)


def _chosen(condition: Tensor, a: Any, b: Any) -> Complex:
    return Complex(torch.where(condition.unsqueeze(-1), _given(a).pairs, _given(b).pairs))


def _transform(x: Any, axes: Any, normalization: int, forward: bool) -> Complex:
    x = _given(x)
    return _pair(*fourier.of_complex((x.real, x.imag), axes, normalization, forward))


MAKERS = {aten.view_as_complex.default, aten.polar.default, aten.complex.default, aten._fft_r2c.default}

WAYS: dict[Any, Callable[..., Any]] = {
    aten.view_as_complex.default: lambda x: Complex(x),
    aten.polar.default: lambda size, angle: _pair(size * torch.cos(angle), size * torch.sin(angle)),
    aten.complex.default: _pair,
    aten.zeros.default: _filled(0),
    aten.ones.default: _filled(1),
    aten._fft_r2c.default: lambda x, axes, normalization, onesided: _pair(*fourier.of_real(x, axes, normalization, onesided)),
    aten._fft_c2c.default: _transform,
    aten._fft_c2r.default: lambda x, axes, normalization, size: fourier.back_to_real((x.real, x.imag), axes, normalization, size),
    aten.view_as_real.default: lambda x: x.pairs,
    aten.real.default: lambda x: x.real,
    aten.imag.default: lambda x: x.imag,
    aten.abs.default: lambda x: (x.pairs * x.pairs).sum(-1).sqrt(),
    aten.angle.default: lambda x: torch.atan2(x.imag, x.real),
    aten.exp.default: _exponential,
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), _multiply),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), _divide),
    **{op: _bilinear(op) for op in (aten.matmul.default, aten.mm.default, aten.bmm.default)},
    aten.einsum.default: _einsum,
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), _add(1)),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), _add(-1)),
    aten.neg.default: lambda x: Complex(-x.pairs),
    **dict.fromkeys((aten._conj.default, aten.conj.default, aten._conj_physical.default, aten.conj_physical.default), _conjugate),
    **dict.fromkeys((aten.view.default, aten.reshape.default, aten._unsafe_view.default), _reshaped),
    **dict.fromkeys((aten.clone.default, aten.contiguous.default, aten.resolve_conj.default, aten.detach.default), lambda x, **_: x),
    **dict.fromkeys((aten.alias.default, aten.lift_fresh_copy.default), lambda x, **_: x),
    aten._to_copy.default: _cast,
    aten.copy.default: lambda x, source, **_: Complex(_given(source).pairs.expand_as(_given(x).pairs)),
    aten.expand.default: lambda x, sizes, **_: Complex(x.pairs.expand([*sizes, 2])),
    aten.repeat.default: lambda x, times: Complex(x.pairs.repeat([*times, 1])),
    aten.unsqueeze.default: _along(lambda pairs, dims, dim: pairs.unsqueeze(_front(dim, dims + 1))),
    aten.squeeze.dim: _along(lambda pairs, dims, dim: pairs.squeeze(_front(dim, dims))),
    aten.transpose.int: _along(lambda pairs, dims, a, b: pairs.transpose(_front(a, dims), _front(b, dims))),
    aten.permute.default: _along(lambda pairs, dims, order: pairs.permute(*(_front(axis, dims) for axis in order), dims)),
    aten.slice.Tensor: _along(lambda pairs, dims, dim=0, *bounds: aten.slice.Tensor(pairs, _front(dim, dims), *bounds)),
    aten.slice_scatter.default: _written,
    aten.select.int: _along(lambda pairs, dims, dim, index: pairs.select(_front(dim, dims), index)),
    aten.index_select.default: _along(lambda pairs, dims, dim, index: pairs.index_select(_front(dim, dims), index)),
    aten.index.Tensor: lambda x, indices: Complex(aten.index.Tensor(x.pairs, indices)),
    aten.flip.default: _along(lambda pairs, dims, axes: pairs.flip([_front(axis, dims) for axis in axes])),
    aten.roll.default: _along(lambda pairs, dims, by, axes: pairs.roll(by, [_front(axis, dims) for axis in axes])),
    aten.sum.dim_IntList: _along(lambda pairs, dims, axes, keepdim=False: pairs.sum([_front(axis, dims) for axis in axes], keepdim)),
    aten.mean.dim: _along(lambda pairs, dims, axes, keepdim=False: pairs.mean([_front(axis, dims) for axis in axes], keepdim)),
    aten.where.self: _chosen,
    aten.constant_pad_nd.default: _padded,
    aten.cat.default: _together(torch.cat, 0),
    aten.stack.default: _together(torch.stack, 1),
}
