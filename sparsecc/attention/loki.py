"""Loki (Singhania et al. 2024): keys lie near a few directions, which are enough to tell where attention goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from sparsecc.attention.base import Asked
from sparsecc.attention.dynamic import Dynamic, Principal, Rule, per_row, principal_components
from sparsecc.errors import RecipeError


@dataclass(frozen=True)
class Loki(Dynamic):
    """In each call q and k are projected to the first principal components of the keys, found on the calibration samples for each head of
    keys. Attention is computed with these, and of each block of queries the blocks are kept that it gives most to, as many in each row.
    The paper chooses single keys for single queries of a decoder; here, blocks for blocks. The number of components stands behind the
    name, `loki:16`; without it, a quarter of the head's channels.
    """

    examples = ({}, {"components": 3})

    components: int | None = None

    def __post_init__(self) -> None:
        if self.components == 0:
            raise RecipeError("components: 0 directions tell nothing")
        if self.components is not None and self.components < 0:
            raise RecipeError(f"components: {self.components} is negative")

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        if not parameters:
            return cls()
        return cls(int(parameters)) if parameters.isascii() and parameters.isdecimal() and len(parameters) < 10 else None

    def rule(self, asked: Asked) -> Rule:
        depth = asked.samples[0].k.shape[3]
        return Principal(per_row(asked), principal_components(asked.samples, min(self.components or -(-depth // 4), depth)))
