"""W ≈ Σₖ Aₖ ⊗ Bₖ, the nearest by an SVD of W rearranged (Van Loan and Pitsianis 1993, Approximation with Kronecker Products)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.structures._parameters import blocks_and_terms
from sparsecc.structures._svd import truncated
from sparsecc.structures.base import Factor, Structure, Structured


@dataclass(frozen=True)
class Kronecker(Structure):
    """Aₖ are blocks_out × blocks_in = p × b, Bₖ have the shape of the p·b blocks of W, which are sums of them:

    W[o1·(out/p) + o2, i1·(in/b) + i2] = Σₖ A[k, o1, i1] · B[k, o2, i2]

    B is multiplied by first, b times, then A, out/p times. That takes terms · (1/p + b/in) of the dense layer's multiplications; A first
    would take terms · (1/b + p/out).

    right: B as [1, out/p · terms, in/b], with row o2·terms + k.  left: A as [1, p, terms·b], with column k·b + i1.
    """

    tensor_names = ("right", "left")
    examples = ("4x2:3", "2x8:1", "8x1:2")

    blocks_out: int
    blocks_in: int
    terms: int = 1

    @property
    def parameters(self) -> str:
        return f"{self.blocks_out}x{self.blocks_in}:{self.terms}"

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        found = blocks_and_terms(parameters)
        return None if found is None else cls(*found)

    @classmethod
    def sized(cls, rows: int, cols: int, params: float) -> list[Self]:
        """Near to balanced: A with as many rows as B or more, B with as many columns as A or more, so that B first is the cheaper order.
        `params` is the share of the multiplications, too, which here are more than the numbers. A row and a column for each term is
        low_rank."""
        budget = int(params * rows * cols)
        found = []
        for p, b in itertools.product(_halves(rows), (cols // n for n in _halves(cols))):
            terms = min(budget // (rows // p * b * (cols // b + p)), _rank(rows, cols, p, b))
            if terms and (p, b) != (rows, 1):
                found.append(cls(p, b, terms))
        return sorted(found, key=lambda structure: -structure.params(rows, cols))

    def shapes(self, rows: int, cols: int) -> tuple[tuple[int, int, int], ...]:
        p, b, terms = self.blocks_out, self.blocks_in, self.terms
        return (1, rows // p * terms, cols // b), (1, p, terms * b)

    def check(self, rows: int, cols: int) -> Refused | None:
        p, b = self.blocks_out, self.blocks_in
        if rows % p:
            return Refused(f"{rows} rows (outputs) are no multiple of {p} blocks, {self.key} needs that")
        if cols % b:
            return Refused(f"{cols} columns (inputs) are no multiple of {b} blocks, {self.key} needs that")
        if self.terms > (most := _rank(rows, cols, p, b)):
            return Refused(f"a {rows}×{cols} matrix of {p}×{b} blocks has {most} terms at most, not {self.terms}")
        return None

    def project(self, weight: Tensor, covariance: Tensor | None = None) -> Structured:
        """Always nearest in the weights: with each block of W as a row, a product Aₖ ⊗ Bₖ is a matrix of rank one."""
        rows, cols = weight.shape
        p, b, terms = self.blocks_out, self.blocks_in, self.terms
        # contiguous: as in low_rank
        blocks = weight.double().contiguous().reshape(p, rows // p, b, cols // b).transpose(1, 2).reshape(p * b, -1)
        left, right = truncated(blocks, terms)  # [p·b, terms], [terms, out/p · in/b]
        tensors = (
            right.reshape(terms, rows // p, cols // b).transpose(0, 1).reshape(1, -1, cols // b),
            left.reshape(p, b, terms).transpose(1, 2).reshape(1, p, -1),
        )
        stored = {name: t.to(weight.dtype).contiguous() for name, t in zip(self.tensor_names, tensors, strict=True)}
        return Structured(self, rows, cols, stored)

    def factors(self, rows: int, cols: int, weights: Sequence[Tensor]) -> tuple[Factor, ...]:
        p, b, q = self.blocks_out, self.blocks_in, rows // self.blocks_out
        right, left = weights
        return Factor(right, (b, q * self.terms), (1, 0), tied=b), Factor(left, (q, p), (1, 0), tied=q)


def _rank(rows: int, cols: int, p: int, b: int) -> int:
    """The terms with which any matrix can be written."""
    return min(p * b, rows * cols // (p * b))


def _halves(size: int) -> list[int]:
    """The smallest divisor from the square root up, and the smallest of twice that and more: 32, 64 of 768."""
    divisors = [n for n in range(math.isqrt(size - 1) + 1, size + 1) if size % n == 0]
    return [divisors[0], *(n for n in divisors if n >= 2 * divisors[0])][:2]
