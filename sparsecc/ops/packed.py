"""The weight matrix behind the packed tensors that an operator is given, as torch operators that every tracer leaves whole.

Unpacking depends on the data (row pointers), so a tracer must not look inside: `sparsecc::unpack` and its transpose
`sparsecc::collect` are opaque, and the gradients of all packed operators are written with these two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsecc.formats import from_key


@torch.library.custom_op("sparsecc::unpack", mutates_args=(), schema="(Tensor[] packed, str format, SymInt rows, SymInt cols) -> Tensor")
def unpack(packed: Sequence[Tensor], format: str, rows: int, cols: int) -> Tensor:
    """Packed tensors → the dense matrix [rows, cols]."""
    return from_key(format).hold(rows, cols, packed).dense()


@unpack.register_fake
def _unpack_fake(packed: Sequence[Tensor], format: str, rows: int, cols: int) -> Tensor:
    return packed[0].new_empty(rows, cols)


@torch.library.custom_op("sparsecc::collect", mutates_args=(), schema="(Tensor matrix, Tensor[] packed, str format) -> Tensor")
def collect(matrix: Tensor, packed: Sequence[Tensor], format: str) -> Tensor:
    """The entries of matrix [rows, cols] that the format stores, in the shape and order of its values: the transpose of `unpack`."""
    values = packed[0]
    # Any format says where it puts its values when it unpacks their numbers, 1 to n, in place of them.
    numbers = torch.arange(1, values.numel() + 1, device=values.device).reshape(values.shape)
    number_at = from_key(format).hold(matrix.shape[0], matrix.shape[1], [numbers, *packed[1:]]).dense()
    stored = number_at > 0
    collected = matrix.new_zeros(values.numel())
    collected[number_at[stored] - 1] = matrix[stored]
    return collected.reshape(values.shape)


@collect.register_fake
def _collect_fake(matrix: Tensor, packed: Sequence[Tensor], format: str) -> Tensor:
    return matrix.new_empty(packed[0].shape)


def _unpack_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    packed, ctx.format, *_ = inputs
    ctx.save_for_backward(*packed)


def _unpack_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    packed = ctx.saved_tensors
    return values_only(torch.ops.sparsecc.collect(grad, packed, ctx.format), packed), None, None, None


def _collect_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    matrix, packed, ctx.format = inputs
    ctx.shape, ctx.tensors = matrix.shape, len(packed)
    ctx.save_for_backward(*packed[1:])


def _collect_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    matrix = torch.ops.sparsecc.unpack([grad, *ctx.saved_tensors], ctx.format, *ctx.shape)
    return matrix, [None] * ctx.tensors, None


unpack.register_autograd(_unpack_backward, setup_context=_unpack_context)
collect.register_autograd(_collect_backward, setup_context=_collect_context)


def values_only(gradient: Tensor | None, packed: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients of the packed tensors: the values have one, indices never do."""
    return [gradient, *(None for _ in packed[1:])]
