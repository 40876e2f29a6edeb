"""W ≈ P·L·Pᵀ·R with block-diagonal L and R and fixed permutations P (Dao et al. 2022, Monarch; rank > 1: Potapczynski et al. 2024, BTT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.structures._parameters import blocks_and_terms
from sparsecc.structures._svd import truncated
from sparsecc.structures.base import Factor, Structure, Structured

MOST_BLOCKS = 16  # more make the blocks of common layers narrower than a kernel can use; onnxruntime slows down from there, too


@dataclass(frozen=True)
class Monarch(Structure):
    """Inputs in b = blocks_in consecutive blocks, outputs in p = blocks_out strided ones (output o is number o // p of block o % p).
    Each of the p·b slices of W, [out/p, in/b], has rank r:

    W[o1·p + o2, i1·(in/b) + i2] = Σₖ left[o2, o1, i1·r + k] · right[i1, o2·r + k, i2]

    right: R as [b, p·r, in/b].  left: L as [p, out/p, b·r].
    """

    tensor_names = ("right", "left")
    examples = ("2x4:1", "4x2:3", "1x8:2", "8x1:2")

    blocks_in: int
    blocks_out: int
    rank: int = 1

    @property
    def parameters(self) -> str:
        return f"{self.blocks_in}x{self.blocks_out}:{self.rank}"

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        found = blocks_and_terms(parameters)
        return None if found is None else cls(*found)

    @classmethod
    def sized(cls, rows: int, cols: int, params: float) -> list[Self]:
        """For block counts about a factor of two apart; one block on both sides is low_rank."""
        pairs = [(b, p) for b in _counts(cols) for p in _counts(rows) if b * p > 1]
        budget = int(params * rows * cols)
        found = [cls(b, p, budget // (p * cols + b * rows)) for b, p in pairs]
        found = [structure for structure in found if structure.check(rows, cols) is None]
        return sorted(found, key=lambda structure: -structure.params(rows, cols))

    def shapes(self, rows: int, cols: int) -> tuple[tuple[int, int, int], ...]:
        b, p, r = self.blocks_in, self.blocks_out, self.rank
        return (b, p * r, cols // b), (p, rows // p, b * r)

    def check(self, rows: int, cols: int) -> Refused | None:
        b, p = self.blocks_in, self.blocks_out
        if cols % b:
            return Refused(f"{cols} columns (inputs) are no multiple of {b} blocks, {self.key} needs that")
        if rows % p:
            return Refused(f"{rows} rows (outputs) are no multiple of {p} blocks, {self.key} needs that")
        if not 1 <= self.rank <= min(rows // p, cols // b):
            return Refused(f"a {rows // p}×{cols // b} slice has no rank {self.rank}")
        return None

    def project(self, weight: Tensor, covariance: Tensor | None = None) -> Structured:
        """Always nearest in the weights, slice by slice: in the outputs the slices are coupled, and no closed form is known."""
        rows, cols = weight.shape
        b, p, r = self.blocks_in, self.blocks_out, self.rank
        # contiguous: as in low_rank
        slices = weight.double().contiguous().reshape(rows // p, p, b, cols // b).permute(1, 2, 0, 3)
        left, right = truncated(slices, r)  # [p, b, out/p, r], [p, b, r, in/b]
        tensors = (
            right.transpose(0, 1).reshape(b, p * r, cols // b),
            left.permute(0, 2, 1, 3).reshape(p, rows // p, b * r),
        )
        stored = {name: t.to(weight.dtype).contiguous() for name, t in zip(self.tensor_names, tensors, strict=True)}
        return Structured(self, rows, cols, stored)

    def factors(self, rows: int, cols: int, weights: Sequence[Tensor]) -> tuple[Factor, ...]:
        b, p, r = self.blocks_in, self.blocks_out, self.rank
        right, left = weights
        last = Factor(left, (p, rows // p), (1, 0)) if p > 1 else Factor(left)
        return Factor(right, (b, p, r), (1, 0, 2)), last


def _counts(size: int) -> list[int]:
    """Divisors up to MOST_BLOCKS, each at least twice the one before: 1, 2, 4, 8, 16 of 768 and 1, 5 of 35."""
    counts = [1]
    for count in range(2, MOST_BLOCKS + 1):
        if size % count == 0 and count >= 2 * counts[-1]:
            counts.append(count)
    return counts
