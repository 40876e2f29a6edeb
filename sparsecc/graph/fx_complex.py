"""Complex numbers as pairs of real ones in a last axis: rotary embeddings are written with them, and TVM has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from sparsecc.errors import ModelError
from sparsecc.graph.fx_cleanup import sweep
from sparsecc.graph.fx_layers import aten, stored
from sparsecc.graph.fx_tensors import assign, free_name


class _Complex:
    """A complex value while a graph is run with real tensors in its place. pairs: [..., 2]."""

    def __init__(self, pairs: Tensor) -> None:
        self.pairs = pairs

    @property
    def real(self) -> Tensor:
        return self.pairs.select(-1, 0)

    @property
    def imag(self) -> Tensor:
        return self.pairs.select(-1, 1)


def without_complex(module: GraphModule) -> nn.Module:
    """The module, or one around it that computes the same by real operators, where complex numbers are inside. It returns flat outputs.
    Raises ModelError for inputs or outputs that are complex, and for an operator that has no real form here."""
    if not any(_is_complex(node.meta.get("val")) for node in module.graph.nodes):
        return module
    output = next(iter(module.graph.find_nodes(op="output")))
    for node in (*module.graph.find_nodes(op="placeholder"), *output.all_input_nodes):
        if _is_complex(node.meta.get("val")):
            raise ModelError(f"'{node.name}' of the model's inputs or outputs is complex; take and return torch.view_as_real of it")
    return _Real(module)


def _is_complex(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_complex()


class _Real(nn.Module):
    """A module whose complex tensors are pairs, run by real operators."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__()
        self.module = module
        self.pairs: set[str] = set()
        for node in module.graph.find_nodes(op="get_attr"):
            value = stored(node)
            if _is_complex(value):
                assert value is not None
                name = free_name(module, f"{node.target}_pairs")
                assign(module, name, torch.view_as_real(value.resolve_conj()).contiguous(), trainable=False)
                node.target = name
                self.pairs.add(name)
        sweep(module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        flat = pytree.tree_leaves((args, kwargs))
        return RealArithmetic(self.module, self.pairs).run(*flat, enable_io_processing=False)


class RealArithmetic(fx.Interpreter):
    """Runs a graph with a `_Complex` wherever a value is complex. pairs: names of the tensors that hold such."""

    def __init__(self, module: GraphModule, pairs: Container[str]) -> None:
        super().__init__(module)
        self.pairs = pairs

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return _Complex(value) if target in self.pairs else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        flat = [*args, *kwargs.values()]
        held = [x for value in flat for x in (value if isinstance(value, (list, tuple)) else [value])]
        if target not in _MAKERS and not any(isinstance(x, _Complex) for x in held):
            return super().call_function(target, args, kwargs)
        way = _WAYS.get(target)
        if way is None:
            raise ModelError(f"the compiler has no operator for: {getattr(target, '__name__', target)} of complex numbers")
        return way(*args, **kwargs)


def _pair(real: Tensor, imag: Tensor) -> _Complex:
    return _Complex(torch.stack(torch.broadcast_tensors(real, imag), -1))


def _multiply(a: Any, b: Any) -> _Complex:
    if not isinstance(a, _Complex):
        a, b = b, a
    if isinstance(b, _Complex):
        return _pair(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)
    return _Complex(a.pairs * (b.unsqueeze(-1) if isinstance(b, Tensor) else b))


def _add(sign: int) -> Callable[..., _Complex]:
    def add(a: Any, b: Any, *, alpha: float = 1) -> _Complex:
        parts = [(x.real, x.imag) if isinstance(x, _Complex) else (x, 0) for x in (a, b)]
        (a_real, a_imag), (b_real, b_imag) = parts
        factor = sign * alpha
        real, imag = a_real + factor * b_real, a_imag + factor * b_imag
        return _pair(real, imag if isinstance(imag, Tensor) else torch.full_like(real, imag))

    return add


def _divide(a: Any, b: Any) -> _Complex:
    if not isinstance(b, _Complex):
        return _Complex(a.pairs / (b.unsqueeze(-1) if isinstance(b, Tensor) else b))
    size = (b.pairs * b.pairs).sum(-1)
    return _multiply(_multiply(a, _conjugate(b)), 1 / size)


def _conjugate(x: _Complex) -> _Complex:
    return _pair(x.real, -x.imag)


def _along(op: Callable[..., Tensor]) -> Callable[..., _Complex]:
    """An operator that moves elements along axes counted from the front or the back, the pairs staying last."""

    def moved(x: _Complex, *axes: Any, **options: Any) -> _Complex:
        return _Complex(op(x.pairs, x.pairs.dim() - 1, *axes, **options))

    return moved


def _front(axis: int, dims: int) -> int:
    return axis % dims if dims else 0


def _reshaped(x: _Complex, shape: Any) -> _Complex:
    return _Complex(x.pairs.reshape([*shape, 2]))


def _joined(parts: Any, dim: int = 0) -> _Complex:
    dims = parts[0].pairs.dim() - 1
    return _Complex(torch.cat([part.pairs for part in parts], _front(dim, dims)))


def _spectrum(x: Tensor, axes: Any, normalization: int, onesided: bool) -> _Complex:
    """The discrete Fourier transform of real numbers along one axis, as two matrix products."""
    if len(axes) != 1:
        raise ModelError("the compiler has no operator for: _fft_r2c along several axes")
    axis, size = axes[0] % x.dim(), x.shape[axes[0]]
    bins = torch.arange(size // 2 + 1 if onesided else size, device=x.device)
    turns = (torch.arange(size, device=x.device).unsqueeze(1) * bins).remainder(size).double() * (2 * math.pi / size)
    scale = (1.0, size**-0.5, 1 / size)[normalization]
    moved = x.movedim(axis, -1)
    real, imag = (moved @ (part * scale).to(x.dtype) for part in (turns.cos(), -turns.sin()))
    return _pair(real.movedim(-1, axis), imag.movedim(-1, axis))


_MAKERS = {aten.view_as_complex.default, aten.polar.default, aten.complex.default, aten._fft_r2c.default}

_WAYS: dict[Any, Callable[..., Any]] = {
    aten.view_as_complex.default: lambda x: _Complex(x),
    aten.polar.default: lambda size, angle: _pair(size * torch.cos(angle), size * torch.sin(angle)),
    aten.complex.default: _pair,
    aten._fft_r2c.default: _spectrum,
    aten.view_as_real.default: lambda x: x.pairs,
    aten.real.default: lambda x: x.real,
    aten.imag.default: lambda x: x.imag,
    aten.abs.default: lambda x: (x.pairs * x.pairs).sum(-1).sqrt(),
    aten.angle.default: lambda x: torch.atan2(x.imag, x.real),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), _multiply),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), _divide),
    aten.add.Tensor: _add(1),
    aten.sub.Tensor: _add(-1),
    aten.neg.default: lambda x: _Complex(-x.pairs),
    **dict.fromkeys((aten._conj.default, aten.conj.default, aten._conj_physical.default, aten.conj_physical.default), _conjugate),
    **dict.fromkeys((aten.view.default, aten.reshape.default, aten._unsafe_view.default), _reshaped),
    **dict.fromkeys((aten.clone.default, aten.contiguous.default, aten.resolve_conj.default, aten.detach.default), lambda x, **_: x),
    **dict.fromkeys((aten.alias.default, aten.lift_fresh_copy.default, aten._to_copy.default), lambda x, **_: x),
    aten.expand.default: lambda x, sizes, **_: _Complex(x.pairs.expand([*sizes, 2])),
    aten.unsqueeze.default: _along(lambda pairs, dims, dim: pairs.unsqueeze(_front(dim, dims + 1))),
    aten.squeeze.dim: _along(lambda pairs, dims, dim: pairs.squeeze(_front(dim, dims))),
    aten.transpose.int: _along(lambda pairs, dims, a, b: pairs.transpose(_front(a, dims), _front(b, dims))),
    aten.permute.default: _along(lambda pairs, dims, order: pairs.permute(*(_front(axis, dims) for axis in order), dims)),
    aten.slice.Tensor: _along(lambda pairs, dims, dim=0, *bounds: aten.slice.Tensor(pairs, _front(dim, dims), *bounds)),
    aten.select.int: _along(lambda pairs, dims, dim, index: pairs.select(_front(dim, dims), index)),
    aten.index_select.default: _along(lambda pairs, dims, dim, index: pairs.index_select(_front(dim, dims), index)),
    aten.index.Tensor: lambda x, indices: _Complex(aten.index.Tensor(x.pairs, indices)),
    aten.sum.dim_IntList: _along(lambda pairs, dims, axes, keepdim=False: pairs.sum([_front(axis, dims) for axis in axes], keepdim)),
    aten.cat.default: _joined,
}
