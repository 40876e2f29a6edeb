"""N:M: N kept of every M consecutive columns (inputs) of a row; positions are bit-packed, no row pointers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparsecc.errors import RecipeError, Refused
from sparsecc.formats._index import required
from sparsecc.formats.base import Format, Packed

GROUPS = range(2, 33)  # what a mask is tried with
SAMPLE_ROWS = 64  # a mask of another pattern fills a group within these rows, so that its other rows need no look
MAX_GROUP = 256  # a position is at most one byte


@dataclass(frozen=True)
class NM(Format):
    """values: T[rows, cols/m*n].  index: uint8[rows, ceil(cols/m*n * bits/8)], the position of each value within its group,
    ascending, `bits` wide, the first in the lowest bits of a byte; every row starts on a byte."""

    tensor_names = ("values", "index")

    n: int
    m: int

    @property
    def pattern(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def parse(cls, pattern: str) -> Self | None:
        numbers = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", pattern)
        if numbers is None:
            return None
        n, m = int(numbers[1]), int(numbers[2])
        if n > m:
            raise RecipeError(f"pattern: {pattern!r} cannot be, N:M keeps N of M consecutive inputs; did you mean '{m}:{n}'?")
        if n == m:
            raise RecipeError(f"pattern: {pattern!r} keeps every weight; N has to be less than M")
        if not n:
            raise RecipeError(f"pattern: {pattern!r} keeps nothing; N has to be at least 1")
        if m > MAX_GROUP:
            raise RecipeError(f"pattern: {pattern!r} is too wide, groups have at most {MAX_GROUP} weights")
        return cls(n, m)

    @classmethod
    def fits(cls, keep: Tensor) -> list[tuple[Self, int]]:
        rows, cols = keep.shape
        found = []
        for m in GROUPS:
            if cols % m or _fullest(keep[:SAMPLE_ROWS], m) == m:
                continue
            n = max(1, _fullest(keep, m))
            if n < m:
                found.append((cls(n, m), rows * cols // m * n))
        return found

    @property
    def fixed_sparsity(self) -> float:
        return 1 - self.n / self.m

    @property
    def part(self) -> tuple[int, int]:
        return 1, self.m

    @property
    def bits(self) -> int:
        """Bits of one position: the smallest of 1, 2, 4, 8 that can say m - 1."""
        return next(bits for bits in (1, 2, 4, 8) if 2**bits >= self.m)

    def check(self, rows: int, cols: int) -> Refused | None:
        return Refused(f"{cols} columns (inputs) are no multiple of {self.m}, {self.pattern} needs that") if cols % self.m else None

    def project(self, score: Tensor, sparsity: float = 0.0) -> Tensor:
        score = torch.where(score.isnan(), -torch.inf, score)
        best = self._groups(score).argsort(dim=2, descending=True, stable=True)[:, :, : self.n]
        return torch.zeros_like(self._groups(score), dtype=torch.bool).scatter_(2, best, True).reshape(score.shape)

    def holds(self, keep: Tensor) -> Refused | None:
        refused = self.check(*keep.shape)
        if refused is not None:
            return refused
        wrong = self._groups(keep).sum(dim=2) != self.n
        broken = int(wrong.count_nonzero())
        return Refused(f"{broken} of {wrong.numel()} groups of {self.m} do not keep exactly {self.n}") if broken else None

    def cover(self, keep: Tensor) -> Tensor | Refused:
        refused = self.check(*keep.shape)
        if refused is not None:
            return refused
        groups = self._groups(keep)
        missing = self.n - groups.sum(dim=2, keepdim=True)
        crowded = int((missing < 0).count_nonzero())
        if crowded:
            return Refused(f"{crowded} of {missing.numel()} groups of {self.m} keep more than {self.n}")
        if not missing.any():
            return keep
        return (groups | ((~groups).cumsum(dim=2) <= missing)).reshape(keep.shape)

    def pack(self, weight: Tensor, keep: Tensor) -> Packed:
        stored = required(self.cover(keep))
        rows, cols = weight.shape
        values = torch.where(keep, weight, weight.new_zeros(()))[stored].reshape(rows, cols // self.m * self.n)
        groups = self._groups(stored)
        positions = torch.arange(self.m, dtype=torch.uint8, device=keep.device).expand(groups.shape)[groups]
        return Packed(self, rows, cols, {"values": values, "index": _pack_bits(positions.reshape(values.shape), self.bits)})

    def unpack(self, packed: Packed) -> Tensor:
        values = packed.tensors["values"]
        positions = _unpack_bits(packed.tensors["index"], self.bits)[:, : values.shape[1]].long()
        groups = torch.arange(values.shape[1], device=values.device) // self.n
        return values.new_zeros(packed.rows, packed.cols).scatter_(1, groups * self.m + positions, values)

    def bytes_packed(self, rows: int, cols: int, kept: int, itemsize: int = 4) -> int:
        per_row = kept // rows
        return rows * (per_row * itemsize + -(-per_row * self.bits // 8))

    def _groups(self, matrix: Tensor) -> Tensor:
        """[rows, cols] → [rows, cols/m, m]."""
        return matrix.reshape(matrix.shape[0], -1, self.m)


def _fullest(keep: Tensor, m: int) -> int:
    """The most that any group of m keeps."""
    return int(keep.view(torch.uint8).reshape(keep.shape[0], -1, m).sum(dim=2, dtype=torch.uint8).max())


def _pack_bits(positions: Tensor, bits: int) -> Tensor:
    """uint8[rows, n] of `bits` significant bits → uint8[rows, ceil(n·bits/8)], low bits first."""
    per_byte = 8 // bits
    padded = torch.nn.functional.pad(positions, (0, -positions.shape[1] % per_byte)).reshape(positions.shape[0], -1, per_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=positions.device)
    return (padded << shifts).sum(dim=2, dtype=torch.uint8)


def _unpack_bits(index: Tensor, bits: int) -> Tensor:
    """Inverse of `_pack_bits`, with the padding of the last byte of a row."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=index.device)
    return ((index.unsqueeze(2) >> shifts) & (2**bits - 1)).reshape(index.shape[0], -1)
