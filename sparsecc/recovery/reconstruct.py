"""Least squares on the kept weights of a layer: for the inputs that the pruned model makes it gives about what the dense layer gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecc import least_squares

DAMPING = 1e-3  # of the mean diagonal: how much a weight is held where it was


@dataclass
class Moments:
    """Sums over tokens of [x, 1]ᵀ[x, 1] and yᵀ[x, 1].  x: what enters the pruned layer.  y: what the dense one gave. All float64."""

    inputs: Tensor
    products: Tensor
    outputs: float = 0.0  # Σ y²
    tokens: int = 0

    @classmethod
    def of(cls, rows: int, cols: int, device: torch.device | None = None) -> Moments:
        inputs, products = (torch.zeros(count, cols + 1, dtype=torch.float64, device=device) for count in (cols + 1, rows))
        return cls(inputs, products)

    def add(self, x: Tensor, y: Tensor) -> None:
        """x: float[tokens, cols].  y: float[tokens, rows]."""
        ones = torch.cat([x, x.new_ones(len(x), 1)], 1)
        self.inputs += (ones.T @ ones).double()
        self.products += (y.T @ ones).double()
        self.outputs += float(y.double().square().sum())
        self.tokens += len(x)

    def error(self, weight: Tensor) -> float:
        """‖y − W[x, 1]‖ / ‖y‖ over all tokens.  weight: [rows, cols + 1], the bias last. 0 where y is zero."""
        weight = weight.double()
        square = self.outputs - 2 * float((weight * self.products).sum()) + float(((weight @ self.inputs) * weight).sum())
        return (max(square, 0.0) / self.outputs) ** 0.5 if self.outputs else 0.0


def fit(weight: Tensor, keep: Tensor, moments: Moments) -> Tensor:
    """The weight [rows, cols + 1], zero outside `keep`, with the least ‖y − W[x, 1]‖² + damping · ‖W − weight‖²; float64."""
    hessian = moments.inputs / moments.tokens
    held = DAMPING * hessian.diagonal().mean()
    hessian = hessian + held * torch.eye(len(hessian)).to(hessian)
    start = weight.double() * keep
    return least_squares.solve(hessian, least_squares.inverse_of(hessian), moments.products / moments.tokens + held * start, start, keep)


def split(count: int, share: float) -> tuple[Sequence[int], Sequence[int]]:
    """Indices of samples to fit on and to hold out, evenly spread, since samples are often sorted, at least one of each; all of them for
    both where there is one sample only, or a share of 0."""
    if count < 2 or not share:
        return range(count), range(count)
    out = min(max(round(share * count), 1), count - 1)
    held = [(2 * place + 1) * count // (2 * out) for place in range(out)]
    return [index for index in range(count) if index not in held], held
