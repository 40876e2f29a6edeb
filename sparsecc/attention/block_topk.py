"""Block top-k: in each call, the blocks whose mean query and mean key go together best. As in ReSA (Sun et al. 2025), which chooses
blocks of a cache of keys so for every query."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from sparsecc.attention.base import Asked
from sparsecc.attention.dynamic import Dynamic, Pooled, Rule, per_row
from sparsecc.errors import RecipeError


@dataclass(frozen=True)
class BlockTopk(Dynamic):
    """Each block of queries sees the same number of blocks of keys, the most that keeps the density asked for: the diagonal, text, and of
    the others those with the highest products of means. It needs no calibration. With `block_topk:refresh=4` every fourth call of the
    model, the first among them, computes all blocks, so that errors do not add up over the steps of a decoder or a denoising loop; the
    density is that of the other calls. Without it, every call chooses. A refresh is at least 2.
    """

    needs_samples = False
    examples = ({}, {"refresh": 3})

    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.refresh is not None and self.refresh < 1:
            raise RecipeError(f"refresh: every {self.refresh} calls is never; leave it out for attention that is never dense")
        if self.refresh == 1:
            raise RecipeError("refresh: every call would be dense; from 2 on some are not")

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        if not parameters:
            return cls()
        given = re.fullmatch(r"refresh=(-?[0-9]{1,9})", parameters)
        return cls(int(given[1])) if given else None

    @property
    def dense_every(self) -> int:
        return self.refresh or 0

    def rule(self, asked: Asked) -> Rule:
        return Pooled(per_row(asked))
