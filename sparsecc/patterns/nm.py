"""N:M: N kept of every M consecutive columns (inputs) of a row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import RecipeError, Refused
from sparsecc.patterns.base import Pattern

MAX_GROUP = 256  # a position is at most one byte


@dataclass(frozen=True)
class NM(Pattern):
    """A recipe writes N:M: `2:4` keeps 2 of every 4 inputs of each output, which is a sparsity of one half."""

    spelling = "N:M (as '2:4')"
    examples = ("2:4", "1:4", "1:2", "3:5", "5:16")

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        numbers = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
        if numbers is None:
            return None
        n, m = int(numbers[1]), int(numbers[2])
        if n > m:
            raise RecipeError(f"pattern: {text!r} cannot be, N:M keeps N of M consecutive inputs; did you mean '{m}:{n}'?")
        if n == m:
            raise RecipeError(f"pattern: {text!r} keeps every weight; N has to be less than M")
        if not n:
            raise RecipeError(f"pattern: {text!r} keeps nothing; N has to be at least 1")
        if m > MAX_GROUP:
            raise RecipeError(f"pattern: {text!r} is too wide, groups have at most {MAX_GROUP} weights")
        return cls(n, m)

    @property
    def fixed_sparsity(self) -> float:
        return 1 - self.n / self.m

    @property
    def part(self) -> tuple[int, int]:
        return 1, self.m

    def check(self, rows: int, cols: int) -> Refused | None:
        return Refused(f"{cols} columns (inputs) are no multiple of {self.m}, {self} needs that") if cols % self.m else None

    def project(self, score: Tensor, sparsity: float = 0.0) -> Tensor:
        score = torch.where(score.isnan(), -torch.inf, score)
        best = self.groups(score).argsort(dim=2, descending=True, stable=True)[:, :, : self.n]
        return torch.zeros_like(self.groups(score), dtype=torch.bool).scatter_(2, best, True).reshape(score.shape)

    def holds(self, keep: Tensor) -> Refused | None:
        refused = self.check(*keep.shape)
        if refused is not None:
            return refused
        wrong = self.groups(keep).sum(dim=2) != self.n
        broken = int(wrong.count_nonzero())
        return Refused(f"{broken} of {wrong.numel()} groups of {self.m} do not keep exactly {self.n}") if broken else None

    def cover(self, keep: Tensor) -> Tensor | Refused:
        refused = self.check(*keep.shape)
        if refused is not None:
            return refused
        groups = self.groups(keep)
        missing = self.n - groups.sum(dim=2, keepdim=True)
        crowded = int((missing < 0).count_nonzero())
        if crowded:
            return Refused(f"{crowded} of {missing.numel()} groups of {self.m} keep more than {self.n}")
        if not missing.any():
            return keep
        return (groups | ((~groups).cumsum(dim=2) <= missing)).reshape(keep.shape)

    def groups(self, matrix: Tensor) -> Tensor:
        """[rows, cols] → [rows, cols/m, m]."""
        return matrix.reshape(matrix.shape[0], -1, self.m)
