"""Least squares for weights of which only some may differ from zero."""

from __future__ import annotations

import torch
from torch import Tensor

_TOLERANCE = 1e-5  # of the gradient, relative to where it began
_ITERATIONS = 200


def solve(hessian: Tensor, products: Tensor, start: Tensor, keep: Tensor, tolerance: float = _TOLERANCE) -> Tensor:
    """The W [rows, cols], zero outside `keep`, with the least tr(W H Wᵀ) - 2 tr(W Pᵀ); in the dtype of the arguments.

    hessian: H [cols, cols], positive definite.  products: P [rows, cols].  start: where to begin.

    By conjugate gradients on all rows at once (Hestenes and Stiefel 1952), preconditioned by the diagonal: rows have supports of their
    own, so that a factorization would be one for each.
    """
    found, scale = start * keep, hessian.diagonal().reciprocal()
    tiny = torch.finfo(found.dtype).tiny
    residual = (products - found @ hessian) * keep
    direction = residual * scale
    power = (residual * direction).sum(1, keepdim=True)
    enough = tolerance**2 * power.clamp(min=tiny)
    for _ in range(_ITERATIONS):
        if bool((power <= enough).all()):
            break
        through = (direction @ hessian) * keep
        step = power / (direction * through).sum(1, keepdim=True).clamp(min=tiny)
        found += step * direction
        residual -= step * through
        towards = residual * scale
        following = (residual * towards).sum(1, keepdim=True)
        direction = towards + following / power.clamp(min=tiny) * direction
        power = following
    return found
