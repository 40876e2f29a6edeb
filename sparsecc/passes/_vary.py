"""More inputs, made of the ones for calibration. No labels are needed: the dense model says what is right for any input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsecc.graph.base import TensorSpec
from sparsecc.graph.inputs import bind

_DISTINCT = 32  # values of an input, from which on it is taken for tokens or measurements; masks and types have fewer
_LOOKED_AT = 65536  # floats
_REPLACED = 0.2  # of the tokens, by any other; the mean over rows, each of which draws its own share
_SPLICED = 0.4  # of the runs of tokens, by what stands there in another row
_RUN = 4
_MIXED = 0.5  # at most, of another sample in one of floats


@dataclass(frozen=True)
class Varied:
    """Samples, and any number of others like them.

    Token ids [..., tokens]: runs of tokens come from another row, single ones are replaced by others that calibration has (mixed
    examples as in CutMix, Yun et al. 2019). Floats: two samples of one shape are added in shares (mixup, Zhang et al. 2018). Masks,
    positions that count up, and first tokens that every row has, stay as they are.
    """

    samples: Sequence[tuple[Tensor, ...]]  # on the CPU, where the others are made
    tokens: Mapping[int, Tensor]  # per input that holds token ids: the distinct ones
    steady: Mapping[int, int]  # per input that holds token ids: how many first positions are the same everywhere
    mixed: frozenset[int]  # inputs of floats that can be mixed

    @classmethod
    def of(cls, specs: Sequence[TensorSpec], given: Sequence[Sequence[Any] | Mapping[str, Any]]) -> Varied:
        samples = [tuple(value.cpu() for value in bind(specs, sample)) for sample in given]
        tokens, steady, mixed = {}, {}, set()
        for place in range(len(specs)):
            values = [sample[place] for sample in samples]
            if not values or values[0].dim() == 0:
                continue
            if values[0].is_floating_point():
                several = len(values[0].flatten()[:_LOOKED_AT].unique()) >= _DISTINCT
                mixed |= {place} if several and all(bool(value.isfinite().all()) for value in values) else set()
            elif values[0].dtype in (torch.int32, torch.int64) and not all(map(_counts_up, values)):
                distinct = torch.cat([value.flatten() for value in values]).unique()
                if len(distinct) >= _DISTINCT:
                    tokens[place], steady[place] = distinct, _common(values)
        return cls(samples, tokens, steady, frozenset(mixed))

    def make(self, index: int, seed: int, among: Sequence[int]) -> tuple[Tensor, ...]:
        """An input like samples[index]; what is mixed into it comes from the samples `among`."""
        generator = torch.Generator().manual_seed(seed)
        other = self.samples[among[int(torch.randint(len(among), (), generator=generator))]]
        share = _MIXED * float(torch.rand((), generator=generator))
        return tuple(self._varied(place, value, other[place], share, generator) for place, value in enumerate(self.samples[index]))

    def _varied(self, place: int, value: Tensor, other: Tensor, share: float, generator: torch.Generator) -> Tensor:
        if place in self.tokens:
            return self._other_tokens(place, value, other, generator)
        if place in self.mixed and value.shape == other.shape:
            return torch.lerp(value, other, share)
        return value

    def _other_tokens(self, place: int, value: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
        rows = value.reshape(-1, value.shape[-1])
        count, length = rows.shape
        free = torch.arange(length) >= self.steady[place]
        donors = rows if count > 1 else other.reshape(-1, other.shape[-1])
        donors = donors[torch.randint(len(donors), (count,), generator=generator)]
        shared = min(length, donors.shape[1])
        runs = (torch.rand(count, -(-length // _RUN), generator=generator) < _SPLICED).repeat_interleave(_RUN, 1)[:, :shared]
        spliced = rows.clone()
        spliced[:, :shared] = torch.where(runs & free[:shared], donors[:, :shared], rows[:, :shared])
        often = 2 * _REPLACED * torch.rand(count, 1, generator=generator)
        replaced = (torch.rand(count, length, generator=generator) < often) & free
        drawn = self.tokens[place][torch.randint(len(self.tokens[place]), (count, length), generator=generator)]
        return torch.where(replaced, drawn, spliced).reshape(value.shape)


def _counts_up(value: Tensor) -> bool:
    """Whether it holds positions."""
    return bool((value.diff(dim=-1) == 1).all())


def _common(values: Sequence[Tensor]) -> int:
    """At how many positions, from the first on, every row of every sample has the same value; 0 where there is one row only."""
    rows = [row for value in values for row in value.reshape(-1, value.shape[-1])]
    if len(rows) < 2:
        return 0
    shortest = min(map(len, rows))
    same = torch.stack([row[:shortest] for row in rows]).eq(rows[0][:shortest]).all(0)
    return int(same.long().cumprod(0).sum())
