"""What a pattern keeps at one site at rising densities, and what each costs: from this, densities are shared out among heads."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sparsecc.attention import judge
from sparsecc.attention.base import Asked, BlockMap, Choice, Pattern, least_density, required
from sparsecc.bits import pack_bits, unpack_bits

DENSITIES = (0.0, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
"""At which a ladder is made, closer where errors fall fast; less than text and the diagonal take means just these."""


@dataclass(frozen=True, eq=False)
class Ladder:
    """densities: of the steps, rising; the last step is dense.  kept: int64[steps, heads], blocks.  error: float64[steps, heads], relative,
    of each head's output; power: float64[heads], ‖o‖² of it; both None without samples.  needed: blocks that every head keeps."""

    densities: tuple[float, ...]
    kept: Tensor
    error: Tensor | None
    power: Tensor | None
    needed: int
    _steps: Sequence[_Step]

    @classmethod
    def of(cls, pattern: Pattern, asked: Asked) -> Ladder:
        """`max_error` is not heeded: the costs are of the maps as they are."""
        asked = replace(asked, max_error=None)
        least = least_density(asked.grid, asked.block, asked.causal)
        densities = sorted({max(density, least) for density in DENSITIES})
        choices = list(pattern.ladder(asked, densities))
        choices.append(_dense(choices[-1]))
        errors = [choice.error for choice in choices if choice.error is not None]
        return cls(
            (*densities, 1.0),
            torch.stack([choice.map.keep.flatten(1).sum(1) for choice in choices]),
            torch.stack(errors).double() if errors else None,
            judge.powers(asked) if errors else None,
            int(required(asked.grid, asked.block, asked.causal).count_nonzero()),
            [_Step.of(choice) for choice in choices],
        )

    @property
    def heads(self) -> int:
        return self.kept.shape[1]

    @property
    def full(self) -> int:
        """Blocks of a dense head."""
        return int(self.kept[-1, 0])

    @property
    def free(self) -> int:
        """Blocks of a head that may go."""
        return self.full - self.needed

    def at(self, density: float) -> list[int]:
        """The step of all heads at a density."""
        return [min(bisect.bisect_left(self.densities, density - 1e-9), len(self.densities) - 1)] * self.heads

    def nearest(self, kept: Sequence[int]) -> list[int]:
        """For each head the step that keeps about so many blocks, the lower of two as near."""
        distance = (self.kept - torch.tensor(kept)).abs()
        return distance.argmin(0).tolist()

    def choice(self, steps: Sequence[int]) -> Choice:
        """Each head at a step of its own."""
        used = sorted(set(steps))
        choices = [self._steps[step].choice() for step in used]
        return assembled([(choices[used.index(step)], head) for head, step in enumerate(steps)])

    def site_error(self, steps: Sequence[int]) -> float:
        """‖o − o'‖² / ‖o‖² of all heads together."""
        assert self.error is not None
        assert self.power is not None
        error = self.error[torch.tensor(steps), torch.arange(self.heads)]
        whole = float(self.power.sum())
        return float((error.square() * self.power).sum()) / whole if whole else 0.0

    def loss(self, head: int, sparsity: float) -> float:
        """‖o − o'‖² / ‖o‖² of all heads' outputs when one head loses this share of the blocks that may go. Between the steps the squared
        error is taken to be linear: blocks of different queries add to it one by one."""
        return float(np.interp(sparsity, *self.curve(head)))

    def curve(self, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a head: shares of the blocks that may go, rising, and the losses there."""
        return self._curves[head]

    def probe(self, error: float) -> tuple[BlockMap, float] | None:
        """The map with all heads at the step at which the attention's output is off by about this, and its relative squared error. None
        where nothing that is left out is lost."""
        errors = {step: found for step in range(len(self.densities)) if (found := self.site_error([step] * self.heads)) > 0}
        if not errors:
            return None
        nearest = min(errors, key=lambda step: abs(math.log(errors[step] / error**2)))
        return self.choice([nearest] * self.heads).map, errors[nearest]

    def without_maps(self) -> Ladder:
        """What the steps keep and cost alone."""
        return replace(self, _steps=())

    @cached_property
    def _curves(self) -> list[tuple[np.ndarray, np.ndarray]]:
        assert self.error is not None
        assert self.power is not None
        whole, curves = float(self.power.sum()), list[tuple[np.ndarray, np.ndarray]]()
        for head in range(self.heads):
            gone = (self.full - self.kept[:, head]).double() / self.free
            points, first = np.unique(gone.numpy()[::-1], return_index=True)  # of equal ones that with the higher density
            errors = np.maximum.accumulate(self.error[:, head].numpy()[::-1][first])
            curves.append((points, errors**2 * float(self.power[head]) / whole if whole else 0.0 * errors))
        return curves


@dataclass(frozen=True, eq=False)
class _Step:
    """A choice whose map takes an eighth of its memory."""

    map: BlockMap  # of which `keep` is one head's: what is the same for all
    orders: Tensor | None
    keep: Tensor
    lost: Tensor | None
    error: Tensor | None

    @classmethod
    def of(cls, choice: Choice) -> _Step:
        found = choice.map
        plain = replace(found, orders=None, keep=found.full[None])
        return cls(plain, found.orders, pack_bits(found.keep), choice.lost, choice.error)

    def choice(self) -> Choice:
        keep = unpack_bits(self.keep, self.keep.shape[1])
        return Choice(replace(self.map, orders=self.orders, keep=keep), self.lost, self.error)


def _dense(like: Choice) -> Choice:
    """Every block of every head, which costs nothing."""
    found = judge.dense_where(like.map, torch.ones(like.map.heads, dtype=torch.bool))
    none = None if like.error is None else torch.zeros(like.map.heads)
    return Choice(found, none, none)


def choose(pattern: Pattern, asked: Asked, densities: Sequence[float]) -> Choice:
    """What the pattern chooses where each head has a density of its own."""
    different = sorted(set(densities))
    if len(different) == 1:
        return pattern.choose(replace(asked, density=different[0]))
    parts: dict[int, tuple[Choice, int]] = {}
    for density in different:
        heads = [head for head, one in enumerate(densities) if one == density]
        choice = pattern.choose(replace(asked.of(heads), density=density))
        parts |= {head: (choice, place) for place, head in enumerate(heads)}
    return assembled([parts[head] for head in range(asked.heads)])


def assembled(heads: Sequence[tuple[Choice, int]]) -> Choice:
    """One choice out of heads of others, which are for one grid: each a choice and the place of the head in it."""
    first = heads[0][0]

    def picked(of: Sequence[Tensor | None]) -> Tensor | None:
        there = [tensor[place] for tensor, (_, place) in zip(of, heads, strict=True) if tensor is not None]
        return torch.stack(there) if there else None

    keep = torch.stack([choice.map.keep[place] for choice, place in heads])
    lost, error = picked([choice.lost for choice, _ in heads]), picked([choice.error for choice, _ in heads])
    return Choice(replace(first.map, orders=_orders(heads), keep=keep), lost, error)


def _orders(heads: Sequence[tuple[Choice, int]]) -> Tensor | None:
    """As indices into AXIS_ORDERS where all are, token by token where one is."""
    given = [choice.map.orders for choice, _ in heads]
    if all(orders is None for orders in given):
        return None
    indices = [orders[place] for orders, (_, place) in zip(given, heads, strict=True) if orders is not None and orders.dim() == 1]
    if len(indices) == len(heads):
        return torch.stack(indices)
    places = {id(choice): choice.map.places() for choice, _ in heads}
    return torch.stack([places[id(choice)][place] for choice, place in heads]).to(torch.int32)
