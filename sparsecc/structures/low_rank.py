"""W ≈ U·V, U [out, rank] and V [rank, in]: the nearest by truncated SVD, in the weights or in the outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.structures._svd import balanced, truncated
from sparsecc.structures.base import Factor, Structure, Structured

DAMPING = 1e-6  # of the mean input power: directions that calibration never saw are then ranked by their weights


@dataclass(frozen=True)
class LowRank(Structure):
    """right: V as [1, rank, in].  left: U as [1, out, rank]."""

    tensor_names = ("right", "left")
    whitens = True
    examples = ("1", "5")

    rank: int

    @property
    def parameters(self) -> str:
        return str(self.rank)

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        return cls(int(parameters)) if re.fullmatch(r"[1-9][0-9]{0,8}", parameters) else None

    @classmethod
    def sized(cls, rows: int, cols: int, params: float) -> list[Self]:
        structure = cls(int(params * rows * cols) // (rows + cols))
        return [] if structure.check(rows, cols) else [structure]

    def shapes(self, rows: int, cols: int) -> tuple[tuple[int, int, int], ...]:
        return (1, self.rank, cols), (1, rows, self.rank)

    def check(self, rows: int, cols: int) -> Refused | None:
        if not 1 <= self.rank <= min(rows, cols):
            return Refused(f"a {rows}×{cols} matrix has no rank {self.rank}")
        return None

    def project(self, weight: Tensor, covariance: Tensor | None = None) -> Structured:
        matrix = weight.double().contiguous()  # the order of sums follows the strides, which differ from host to host
        left, right = truncated(matrix, self.rank) if covariance is None else self._whitened(matrix, covariance.double())
        tensors = (right.unsqueeze(0), left.unsqueeze(0))
        stored = {name: t.to(weight.dtype).contiguous() for name, t in zip(self.tensor_names, tensors, strict=True)}
        return Structured(self, len(weight), weight.shape[1], stored)

    def factors(self, rows: int, cols: int, weights: Sequence[Tensor]) -> tuple[Factor, ...]:
        right, left = weights
        return Factor(right), Factor(left)

    def _whitened(self, weight: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest in ‖(W − W')H^½‖, which is the output error. With WH^½ = UΣQᵀ the optimum UᵣΣᵣQᵣᵀH^-½ is Uᵣ·UᵣᵀW, the outputs
        projected onto their first principal components: nothing is inverted, and any root of H has the same U."""
        power = float(covariance.diagonal().mean()) or 1.0
        root = torch.linalg.cholesky(covariance + DAMPING * power * torch.eye(len(covariance)).to(covariance))
        u, _, _ = torch.linalg.svd(weight @ root, full_matrices=False)
        left = u[:, : self.rank]
        return balanced(left, left.mT @ weight)
