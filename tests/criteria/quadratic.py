"""Small problems whose curvature can be written out."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPE = (4, 12)


def problem(samples: int = 6, shape: tuple[int, int] = SHAPE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight, and gradients that have fewer sources than there are weights in a row, large ones for some inputs; float64."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = shape
    mix = torch.randn(rows, cols // 2, cols, generator=generator, dtype=torch.float64)
    mix *= torch.randn(cols, generator=generator, dtype=torch.float64).exp()
    sources = torch.randn(samples, rows, 1, cols // 2, generator=generator, dtype=torch.float64)
    return torch.randn(shape, generator=generator, dtype=torch.float64), (sources @ mix)[:, :, 0]


def curvature_of(gradients: Tensor, damping: float) -> Tensor:
    """λI + (1/m) Σ ggᵀ of each row, float64[rows, cols, cols]."""
    products = torch.einsum("mri,mrj->rij", gradients, gradients) / len(gradients)
    diagonal = products.diagonal(dim1=1, dim2=2)
    return products + damping * diagonal.mean() * torch.eye(gradients.shape[2], dtype=gradients.dtype)


def cost(curvature: Tensor, move: Tensor) -> float:
    """½ Σ moveᵀ H move over rows."""
    return float(torch.einsum("ri,rij,rj->", move, curvature, move)) / 2


def best_on(curvature: Tensor, weight: Tensor, keep: Tensor) -> Tensor:
    """The cheapest weight that is zero off the support, by a dense solve for each row."""
    found = torch.zeros_like(weight)
    for row, (h, w, kept) in enumerate(zip(curvature, weight, keep, strict=True)):
        found[row, kept] = w[kept] + torch.linalg.solve(h[kept][:, kept], h[kept][:, ~kept] @ w[~kept])
    return found
