"""Where the tokens of an activation lie: [.., tokens, features] stored as [tiles, features, tile], tokens in the vector lanes.

A few tokens would leave most lanes empty: they stay as they are, as tiles of one token, and features lie in the lanes.
A value may exist in its natural order, in tiles, or as a view of heads on tiles; it is converted only when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from sparsecc.codegen.cpu.operators.group_tokens import GroupSpec
from sparsecc.codegen.cpu.pieces.matvec import MOST_TOKENS
from sparsecc.codegen.cpu.pieces.tiles import tile_for
from sparsecc.codegen.recognize.program import Expr
from sparsecc.codegen.spec import ceil_div

VIEWS = {"reshape", "expand_dims", "squeeze", "permute_dims"}  # operators that compute nothing
_MOST_PADDING = 1.25  # tokens of each sequence are padded by themselves while that costs less than this


@dataclass(frozen=True)
class TokenLayout:
    """sequences × tokens, each sequence padded to a multiple of `tile`."""

    sequences: int
    tokens: int
    tile: int

    @property
    def tiles_per_sequence(self) -> int:
        return ceil_div(self.tokens, self.tile)

    @property
    def tiles(self) -> int:
        return self.sequences * self.tiles_per_sequence

    @property
    def as_they_are(self) -> bool:
        """Whether tokens lie as in the natural order."""
        return self.tile == 1

    @property
    def padded(self) -> int:
        return self.tiles_per_sequence * self.tile

    def shape(self, features: int) -> tuple[int, int, int]:
        return self.tiles, features, self.tile


def layout_of(shape: tuple[int, ...], lanes: int) -> TokenLayout:
    """For an activation [.., tokens, features] that linear layers read and write."""
    return as_they_are(shape) if math.prod(shape[:-1]) <= MOST_TOKENS else tiles_of(shape, lanes)


def as_they_are(shape: tuple[int, ...]) -> TokenLayout:
    return TokenLayout(1, math.prod(shape[:-1]), 1)


def tiles_of(shape: tuple[int, ...], lanes: int) -> TokenLayout:
    """With tokens in the lanes: sequences apart when padding each is cheap, which attention wants, else in one."""
    *lead, tokens, _ = shape
    sequences = math.prod(lead)
    apart = sequence_layout(sequences, tokens, lanes)
    if sequences == 1 or (apart.padded <= tokens * _MOST_PADDING and tokens >= lanes):
        return apart
    return sequence_layout(1, sequences * tokens, lanes)


def sequence_layout(sequences: int, tokens: int, lanes: int) -> TokenLayout:
    """With each sequence in tiles of its own. One alone may be padded as far as that pays."""
    most = math.inf if sequences == 1 else tokens * _MOST_PADDING
    return TokenLayout(sequences, tokens, tile_for(tokens, lanes, most))


@dataclass(frozen=True)
class Phases:
    """An image [batch, channels, rows, columns] with the pixels of each phase by themselves.

    held: [batch · phases, channels, pitch], of which height × width are used.  factors: see `kernels.interleave`.
    """

    held: Expr
    height: int
    width: int
    factors: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Planes:
    """An image [batch, channels, rows, columns] with room behind its rows and channels, as convolutions read and write it.

    held: [batch, channels, pitch], in which rows begin every `cols` elements.
    """

    held: Expr
    cols: int


@dataclass
class Value:
    """One tensor of the model in the forms it has so far.

    tiled: [tiles, features, tile] of the tensor [.., tokens, features] with this shape.
    heads: the order ("bshd", "bhsd") in which a 4-D tensor is a view of `tiled`, whose features are heads·head_dim.
    narrow: groups of narrow numbers made of tiles, their scales and zero points where they have some, by `GroupSpec` and given scale.
    later: emits the natural form, once somebody asks.
    """

    shape: tuple[int, ...]
    natural: Expr | None = None
    tiled: Expr | None = None
    layout: TokenLayout | None = None
    heads: str | None = None
    narrow: dict[tuple[GroupSpec, float | None], tuple[Expr, ...]] = field(default_factory=dict)
    planes: Planes | None = None
    phases: Phases | None = None
    later: Callable[[], Expr] | None = None


def layout_for(value: Value, lanes: int) -> TokenLayout:
    """In which a linear layer or a normalization reads a value: the tiles that it has, where tokens are not few."""
    found = layout_of(value.shape, lanes)
    if found.as_they_are or value.tiled is None or value.layout is None or value.heads is not None:
        return found
    return value.layout
