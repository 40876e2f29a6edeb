"""Attention in fewer bits: what q, k and v are rounded to before they are multiplied. Scores and sums stay in the model's own type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["float32", "bfloat16", "int8"]
"""float32: the model's own type.  bfloat16: q, k and v.  int8: q and k, symmetric, one scale for each block of tokens in the order of the
head (PAROAttention, Zhao et al. 2025), v in bfloat16."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LEVELS = 127


def rounded_tokens(x: Tensor, places: Tensor, block: int, precision: str) -> Tensor:
    """Queries or keys of one head, [batch, tokens, head_dim] in the model's order.  places: int64[tokens], which token comes to each place
    of the head's order.  block: tokens that share a scale of int8."""
    if precision != "int8":
        return rounded_values(x, precision)
    result = x.clone()
    for tokens in places.split(block):
        part = x[:, tokens]
        step = part.abs().amax((1, 2), keepdim=True) / LEVELS
        result[:, tokens] = (part / step.where(step != 0, 1)).round() * step
    return result


def rounded_values(v: Tensor, precision: str) -> Tensor:
    """Values of any shape."""
    return v if precision == "float32" else v.bfloat16().to(v.dtype)
