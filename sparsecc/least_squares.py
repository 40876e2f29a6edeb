"""Least squares for weights of which only some may differ from zero."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.linalg has no types.

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 3e-3  # of the gradient, relative to where it began: the sum of squares is within 1e-4 of the least
DAMPING = 0.01  # of the Hessian's mean diagonal, where columns make up for each other
_ITERATIONS = 200


def solve(hessian: Tensor, inverse: Tensor, products: Tensor, start: Tensor, keep: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The W [rows, cols], zero outside `keep`, with the least tr(W H Wᵀ) - 2 tr(W Pᵀ); in the dtype of the arguments.

    hessian: H [cols, cols], positive definite.  inverse: as `inverse_of` gives it.  products: P [rows, cols].  start: where to begin.

    By conjugate gradients on all rows at once (Hestenes and Stiefel 1952): rows have supports of their own, so that a factorization
    would be one for each. The inverse of all of H, cut to the support, is the preconditioner: it takes a quarter of the iterations that
    the diagonal takes (MiniLM, 1536 inputs).
    """
    found, tiny = start * keep, torch.finfo(start.dtype).tiny
    residual = (products - found @ hessian) * keep
    direction = (residual @ inverse) * keep
    power = (residual * direction).sum(1, keepdim=True)
    enough = tolerance**2 * power.clamp(min=tiny)
    for _ in range(_ITERATIONS):
        if bool((power <= enough).all()):
            break
        through = (direction @ hessian) * keep
        step = power / (direction * through).sum(1, keepdim=True).clamp(min=tiny)
        found += step * direction
        residual -= step * through
        towards = (residual @ inverse) * keep
        following = (residual * towards).sum(1, keepdim=True)
        direction = towards + following / power.clamp(min=tiny) * direction
        power = following
    return found


def dampened(hessian: Tensor, share: float) -> Tensor:
    """float64: H + share times its mean diagonal, which is all that an input has that is always zero; with the identity where all are."""
    found = hessian.double().clone()
    diagonal = found.diagonal()
    level = diagonal.mean()
    diagonal += share * level if level > 0 else 1.0
    return found


def inverse_of(hessian: Tensor) -> Tensor:
    """By Cholesky in float64, in the dtype of H; that of the diagonal where rounding has left no factor."""
    factor, failed = torch.linalg.cholesky_ex(hessian.double())
    return torch.diag(hessian.diagonal().reciprocal()) if failed else torch.cholesky_inverse(factor).to(hessian)


def inverse_factor(hessian: Tensor, share: float = DAMPING) -> Tensor:
    """Upper U with UᵀU = H⁻¹, float64, of the dampened H: row i says what an error in column i means for those after it."""
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(dampened(hessian, share))), upper=True)
