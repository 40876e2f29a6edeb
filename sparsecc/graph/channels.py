"""Channels that layers share, rows of some and columns of another one, and where the values between these layers have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.graph.sites import Attention, Linear, Mlp

Size = int | str | None  # a number, a name for one, or unknown


@dataclass(frozen=True)
class Channels:
    """The neurons of an Mlp, or the heads of an attention: as groups where several heads share their keys and values.

    writers: the layers whose rows they are: (first,), or (q, k, v).  reader: the one whose columns they are.  units: how many. In each
    layer every unit has the same number of neighbouring rows or columns.
    """

    units: int
    writers: tuple[Linear, ...]
    reader: Linear
    handle: Any = field(default=None, repr=False, compare=False)  # the host's own account of what lies between

    @property
    def layers(self) -> tuple[Linear, ...]:
        return (*self.writers, self.reader)

    def rows(self, writer: Linear, units: Tensor) -> Tensor:
        """int64: the rows of the units, in their order."""
        return members(units, writer.rows // self.units)

    def columns(self, units: Tensor) -> Tensor:
        """int64: the columns of the reader that belong to the units, in their order."""
        return members(units, self.reader.cols // self.units)


def units_of(site: Mlp | Attention, writers: Sequence[Linear]) -> int | Refused:
    """How many neurons, or heads that share nothing. writers: as in `Channels`."""
    if isinstance(site, Mlp):
        return writers[0].rows
    if site.block_map is not None:
        return Refused("its heads have block maps of their own")
    if len({writer.name for writer in writers}) < len(writers):
        return Refused("q, k and v come from one layer")
    q, k, v = (writer.rows for writer in writers)
    units = k // site.head_dim  # not `kv_heads`: the graph may repeat the keys for each head before the attention
    if q != site.heads * site.head_dim or k % site.head_dim or site.kv_heads not in (units, site.heads):
        return Refused(f"its layers do not write {site.heads} heads of {site.head_dim}")
    if site.heads % units or v % units:
        return Refused(f"{site.heads} heads do not share {units} keys and values evenly")
    return units


def members(units: Tensor, size: int) -> Tensor:
    """int64[units · size]: the indices of units of `size` neighbours each."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()


@dataclass(frozen=True)
class Axis:
    """Where a value has the channels: along axis `at`, which holds [anything, units, size] in this order."""

    at: int
    size: int = 1

    def reshaped(self, source: Sequence[Size], target: Sequence[Size], units: int) -> Axis | None:
        """After a reshape; None where the units are torn apart, or where sizes that are not known may do that."""
        inner = _product([self.size, *source[self.at + 1 :]])
        for at in reversed(range(len(target))):
            size = _quotient(inner, _product(target[at + 1 :]))
            extent = target[at]
            if size is None or extent == 1:
                continue
            whole = extent % (units * size) == 0 if isinstance(extent, int) else at == 0
            if whole:
                return Axis(at, size)
        return None

    def fills(self, shape: Sequence[Size], units: int) -> bool:
        """Whether the axis holds the units one after the other, and nothing else."""
        return shape[self.at] == units * self.size

    def permuted(self, order: Sequence[int]) -> Axis:
        """order: which axis of before stands at each place."""
        return replace(self, at=list(order).index(self.at))

    def widened(self, rank: int, target: int) -> Axis:
        """Of a value of `rank` axes that is broadcast to `target` axes."""
        return replace(self, at=self.at + target - rank)


def extent(axis: Axis, shape: Sequence[Size], units: int, kept: int) -> int | None:
    """How long the axis is once `kept` of its units are left; None where its length is no number."""
    size = shape[axis.at]
    return size // units * kept if isinstance(size, int) else None


def _product(sizes: Sequence[Size]) -> tuple[int, Counter[str]] | None:
    """The number and the names, None where one is unknown."""
    number, names = 1, Counter[str]()
    for size in sizes:
        if size is None:
            return None
        if isinstance(size, int):
            number *= size
        else:
            names[size] += 1
    return number, names


def _quotient(whole: tuple[int, Counter[str]] | None, part: tuple[int, Counter[str]] | None) -> int | None:
    """whole / part where it is a number."""
    if whole is None or part is None or whole[1] != part[1] or not part[0] or whole[0] % part[0]:
        return None
    return whole[0] // part[0]
