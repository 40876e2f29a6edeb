"""A sliding window (Beltagy et al. 2020, Longformer; Child et al. 2019): each token sees those near it, and global tokens see all and are
seen by all. Nothing is reordered and nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.attention.base import Asked, Choice
from sparsecc.attention.fixed import Fixed, choice, distances, whole_blocks, widest


@dataclass(frozen=True)
class SlidingWindow(Fixed):
    """Block i of the queries sees block j of the keys where |i − j| ≤ ⌈window / block⌉, so that each token sees at least `window` tokens
    before it and, where attention is not causal, as many after it. The text tokens of the grid are the global ones. The window stands
    behind the name, `sliding_window:512`; without one it is the widest that keeps at most the density asked for.
    """

    examples = ({}, {"window": 5})

    window: int | None = None

    def choose(self, asked: Asked) -> Choice:
        distance = distances(asked)
        if self.window is not None:
            return choice(distance <= whole_blocks(self.window, asked), asked)
        return choice(widest(range(len(distance)), lambda reach: distance <= reach, asked), asked)
