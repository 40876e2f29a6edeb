"""structured_linear: y[..., rows] = x[..., cols] Wᵀ + b, with W a product of block-diagonal or sparse factors and permutations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsecc.ops.base import SiteOp, TorchCall
from sparsecc.ops.packed import values_only
from sparsecc.structures import from_key
from sparsecc.structures.base import Factor, Structure, Structured, apply


@dataclass(frozen=True)
class StructuredLinear(SiteOp):
    """Stands in the place of a Linear site."""

    parameter: ClassVar[str] = "structure"

    stored: Structured = field(repr=False)

    @staticmethod
    def storage(key: str) -> Structure:
        return from_key(key)

    def torch_call(self, name: str) -> TorchCall:
        stored = self.stored
        return TorchCall(torch.ops.sparsecc.structured_linear.default, (stored.structure.key, stored.rows, stored.cols, name))

    def reference(self, x: Tensor) -> Tensor:
        return reference(x, self.stored.factors(), self.bias)


def reference(x: Tensor, factors: Sequence[Factor], bias: Tensor | None = None) -> Tensor:
    """What structured_linear means: one factor after the other, then the bias."""
    y = apply(factors, x)
    return y if bias is None else y + bias


@torch.library.custom_op(
    "sparsecc::structured_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor[] factors, Tensor? bias, str structure, int rows, int cols, str name) -> Tensor",
)
def structured_linear(x: Tensor, factors: Sequence[Tensor], bias: Tensor | None, structure: str, rows: int, cols: int, name: str) -> Tensor:
    """factors: the tensors of Structured.tensors in their order.  structure: Structure.key.  name: the site's, to find a kernel by."""
    return reference(x, from_key(structure).factors(rows, cols, factors), bias).contiguous()


@structured_linear.register_fake
def _fake(x: Tensor, factors: Sequence[Tensor], bias: Tensor | None, structure: str, rows: int, cols: int, name: str) -> Tensor:
    torch._check(x.shape[-1] == cols, lambda: f"layer '{name}' takes {cols} inputs, x has shape {tuple(x.shape)}")
    return x.new_empty(*x.shape[:-1], rows)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, factors, bias, ctx.structure, ctx.rows, ctx.cols, _ = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, *factors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """From the last factor to the first, with its input computed again: dW = dYᵀ X block by block (a tied block's is the sum over all
    that it meets), dX = dY W;  db = Σ dY."""
    x, *weights = ctx.saved_tensors
    by_factor, by_bias = any(ctx.needs_input_grad[1]), ctx.has_bias and ctx.needs_input_grad[2]
    factors = from_key(ctx.structure).factors(ctx.rows, ctx.cols, weights)
    entering = [x.reshape(-1, ctx.cols)]
    for factor in factors[:-1] if by_factor else ():
        entering.append(factor.permute(factor.multiply(entering[-1])))
    grad_rows = grad.reshape(-1, ctx.rows)
    grad_bias = grad_rows.sum(0) if by_bias else None
    grad_weights: list[list[Tensor | None]] = [[None] * len(factor.tensors) for factor in factors]
    for i in reversed(range(len(factors))):
        by_block = factors[i].by_block(factors[i].restore(grad_rows))
        if by_factor:
            grad_weights[i] = _as_stored(by_block.mT @ factors[i].by_block(entering[i]), factors[i])
        grad_rows = factors[i].by_token(by_block @ factors[i].weight)
    flat = [grad for grads in grad_weights for grad in grads]
    return grad_rows.reshape(x.shape), flat, grad_bias, None, None, None, None


def _as_stored(grad: Tensor, factor: Factor) -> list[Tensor | None]:
    """The gradient of a factor's weight [blocks, rows, cols] as those of its tensors."""
    if factor.packed is None:
        return [grad]
    return values_only(torch.ops.sparsecc.collect(grad[0], list(factor.tensors), factor.packed.format.key), factor.tensors)


structured_linear.register_autograd(_backward, setup_context=_setup_context)
