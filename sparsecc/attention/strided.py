"""Strided attention (Child et al. 2019, Sparse Transformers): each query sees the keys near it, and every `stride`-th block beyond. With a
window as wide as the stride, two layers reach every token. Nothing is reordered and nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsecc.attention.base import Asked, Choice
from sparsecc.attention.fixed import Fixed, choice, distances, whole_blocks, widest
from sparsecc.errors import RecipeError


@dataclass(frozen=True)
class Strided(Fixed):
    """Block i of the queries sees block j of the keys where |i − j| ≤ ⌈window / block⌉ or |i − j| is a multiple of ⌈stride / block⌉: the
    union of the paper's two kinds of heads. Both are in tokens and stand behind the name, `strided:1024` or `strided:1024:256`; without
    a window it is as wide as the stride, as in the paper.

    Without a stride it is the power of two of blocks next to the square root of their number, as the paper advises, and the window is the
    widest that keeps at most the density asked for; a density below that of such strides alone doubles the stride as often as needed.
    """

    examples = ({}, {"stride": 20}, {"stride": 24, "window": 0})

    stride: int | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride == 0:
            raise RecipeError("stride: 0 is no distance")
        if self.stride is None and self.window is not None:
            raise RecipeError("window: needs a stride; without one the density asked for decides on both")

    def choose(self, asked: Asked) -> Choice:
        distance = distances(asked)

        def keep(size: tuple[int, int]) -> Tensor:
            stride, reach = size
            return (distance % stride == 0) | (distance <= reach)

        if self.stride is not None:
            window = self.stride if self.window is None else self.window
            return choice(keep((whole_blocks(self.stride, asked), whole_blocks(window, asked))), asked)
        return choice(widest(_sizes(len(distance)), keep, asked), asked)


def _sizes(blocks: int) -> list[tuple[int, int]]:
    """(stride, reach) in blocks: first smaller strides without a window, then wider windows."""
    usual = round((blocks.bit_length() - 1) / 2)
    strides = [(1 << power, 0) for power in reversed(range(usual, blocks.bit_length() + 1))]
    return [*strides, *((1 << usual, reach) for reach in range(1, blocks))]
