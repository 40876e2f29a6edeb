"""How the blocks of a budget are shared out among heads, layers and parts of the denoising steps, by what each loses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from sparsecc import allocations
from sparsecc.allocations.base import Limit, Share
from sparsecc.attention.ladder import Ladder
from sparsecc.attention.steps import WHOLE, Part

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST_GAIN = 1e9  # where the model overflows, a gain is infinite
_ROUNDING = 1 + 1e-12  # of sums of fractions


@dataclass(frozen=True, eq=False)
class Measured:
    """What an attention keeps and loses in a part of the steps. gain: the model's relative squared error for a relative squared error of
    the attention's output of 1."""

    site: str
    ladder: Ladder
    gain: float
    steps: Part = WHOLE

    @property
    def weight(self) -> float:
        """The share of the steps that it counts for."""
        return self.steps[1] - self.steps[0]

    def without_maps(self) -> Measured:
        """In a thousandth of the memory."""
        return replace(self, ladder=self.ladder.without_maps())


Kept = list[list[int]]
"""How many blocks each head keeps, of one `Measured` after the other."""


def shared_out(allocation: str, measured: Sequence[Measured], density: float) -> Kept:
    """All together keep at most this share of the blocks that a run computes, or text and diagonals alone where these are more.

    A step counts like any other, so that blocks and losses of a part are weighted by its length. Heads of one attention that lose the same
    in two parts keep the same in both. Where the allocation finds nothing better, each head keeps the density.
    """
    units = _units(measured)
    left = sum(one.weight * (density * one.ladder.full - one.ladder.needed) * one.ladder.heads for one in measured)
    limit = Limit(max(0.0, left) * _ROUNDING, "blocks")
    sparsities = allocations.create(allocation).within([unit.share for unit in units], limit, 0.0) if units else []
    found = [[one.ladder.full] * one.ladder.heads for one in measured]
    for unit, sparsity in zip(units, sparsities, strict=True):
        for place, head in unit.heads:
            found[place][head] -= round(sparsity * measured[place].ladder.free)
    return min(found, equally(measured, density), key=lambda kept: lost(measured, kept))


def least(measured: Sequence[Measured]) -> float:
    """The density at which each head keeps text and the diagonal alone."""
    needed = sum(one.weight * one.ladder.needed * one.ladder.heads for one in measured)
    return needed / sum(one.weight * one.ladder.full * one.ladder.heads for one in measured)


def equally(measured: Sequence[Measured], density: float) -> Kept:
    """Every head keeps the density, rounded down."""
    return [[max(one.ladder.needed, int(density * one.ladder.full + 1e-9))] * one.ladder.heads for one in measured]


def lost(measured: Sequence[Measured], kept: Kept) -> float:
    """The model's relative squared error, on average over the steps that are named, as far as errors add up."""
    return sum(
        one.weight * one.gain * one.ladder.loss(head, (one.ladder.full - blocks) / one.ladder.free)
        for one, heads in zip(measured, kept, strict=True)
        for head, blocks in enumerate(heads)
        if one.ladder.free
    )


class _Unit(NamedTuple):
    """Heads that keep the same: (place among the measured, head)."""

    share: Share
    heads: list[tuple[int, int]]


def _units(measured: Sequence[Measured]) -> list[_Unit]:
    alike: dict[Hashable, list[tuple[int, int]]] = {}
    for place, one in enumerate(measured):
        for head in range(one.ladder.heads) if one.ladder.free else ():
            points, losses = one.ladder.curve(head)
            key = (one.site, head, one.gain, one.ladder.full, points.tobytes(), losses.tobytes())
            alike.setdefault(key, []).append((place, head))
    return [
        _Unit(_share(measured[heads[0][0]], heads[0][1], sum(measured[place].weight for place, _ in heads)), heads)
        for heads in alike.values()
    ]


def _share(one: Measured, head: int, weight: float) -> Share:
    """A head, whose units are the blocks that may go."""
    return Share(
        name=f"{one.site} {head}",
        shape=(),
        units=one.ladder.free,
        unit_scores=_no_scores,
        loss=lambda sparsity: weight * one.gain * one.ladder.loss(head, sparsity),
        cost=lambda blocks: weight * blocks,
        corners=(one.ladder.kept[:, head] - one.ladder.needed).tolist(),
    )


def _no_scores() -> Tensor:
    raise AssertionError("heads have no scores; an allocation that reads some is refused")
