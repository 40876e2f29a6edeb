"""More inputs, made of the ones for calibration. No labels are needed: the dense model says what is right for any input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsecc.graph.base import TensorSpec
from sparsecc.graph.inputs import Sample, bind

_DISTINCT = 32  # values of an input, from which on it is taken for tokens or measurements; masks and types have fewer
_LOOKED_AT = 65536  # floats
_SCORES = 2**24  # between tokens, at once
_REPLACED = 0.2  # of the tokens, by any other; the mean over rows, each of which draws its own share
_RELATED = 0.5  # of those that are replaced, by a token near to that other one instead
_NEAREST = 32  # of which one is drawn
_SPLICED = 0.4  # of the runs of tokens, by what stands there in another row
_RUN = 2
_MIXED = 0.5  # at most, of another sample in one of floats


@dataclass(frozen=True)
class Varied:
    """Samples, and any number of others like them.

    Token ids [..., tokens], the integers at which the model reads a table: runs of tokens come from another row, single ones are replaced
    by others that calibration has (mixed examples as in CutMix, Yun et al. 2019), or by tokens that calibration may lack, whose embeddings
    are near to theirs. Floats: two samples of one shape are added in shares (mixup, Zhang et al. 2018). Masks, lengths, positions that
    count up, and first tokens that every row has, stay as they are.
    """

    samples: Sequence[Sample]  # on the CPU, where the others are made
    tokens: Mapping[int, Tensor]  # per input that holds token ids: the distinct ones
    related: Mapping[int, Tensor]  # per such input: int64[distinct, _NEAREST]
    steady: Mapping[int, int]  # per input that holds token ids: how many first positions are the same everywhere
    mixed: frozenset[int]  # inputs of floats that can be mixed

    @classmethod
    def of(
        cls, specs: Sequence[TensorSpec], given: Sequence[Sequence[Any] | Mapping[str, Any]], embeddings: Mapping[int, Tensor] | None = None
    ) -> Varied:
        """embeddings: the table [entries, width] by the place of the input that reads it; other integers stay as they are."""
        samples = [Sample(specs, (value.cpu() for value in bind(specs, sample))) for sample in given]
        tables = embeddings or {}
        tokens, related, steady, mixed = {}, {}, {}, set()
        for place in range(len(specs)):
            values = [sample[place] for sample in samples]
            if not values or values[0].dim() == 0:
                continue
            if values[0].is_floating_point() and place not in tables:
                several = len(values[0].flatten()[:_LOOKED_AT].unique()) >= _DISTINCT
                mixed |= {place} if several and all(bool(value.isfinite().all()) for value in values) else set()
            elif place in tables and not all(map(_counts_up, values)):
                distinct = torch.cat([value.flatten() for value in values]).unique()
                if len(distinct) >= _DISTINCT and int(distinct[0]) >= 0 and int(distinct[-1]) < len(tables[place]):
                    tokens[place], steady[place], related[place] = distinct, _common(values), _nearest(tables[place], distinct)
        return cls(samples, tokens, related, steady, frozenset(mixed))

    @property
    def varies(self) -> bool:
        return bool(self.tokens or self.mixed)

    def others(self, variations: int, among: Sequence[int], seed: int) -> list[Sample]:
        """So many inputs like each of the samples `among`; none where nothing in them can vary."""
        if not self.varies:
            return []
        count = len(self.samples)
        return [self.make(i, seed * 1_000_003 + turn * count + i, among) for turn in range(variations) for i in among]

    def make(self, index: int, seed: int, among: Sequence[int]) -> Sample:
        """An input like samples[index]; what is mixed into it comes from the samples `among`."""
        generator = torch.Generator().manual_seed(seed)
        other = self.samples[among[int(torch.randint(len(among), (), generator=generator))]]
        share = _MIXED * float(torch.rand((), generator=generator))
        sample = self.samples[index]
        return Sample(sample.specs, (self._varied(place, value, other[place], share, generator) for place, value in enumerate(sample)))

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
        which = torch.randint(len(self.tokens[place]), (count, length), generator=generator)
        drawn, related = self.tokens[place][which], self.related[place]
        near = related[which, torch.randint(related.shape[1], (count, length), generator=generator)]
        drawn = torch.where(torch.rand(count, length, generator=generator) < _RELATED, near.to(drawn), drawn)
        return torch.where(replaced, drawn, spliced).reshape(value.shape)


def _nearest(table: Tensor, tokens: Tensor) -> Tensor:
    """int64[tokens, _NEAREST]: the other entries of the table whose directions are nearest to those of the tokens."""
    entries = nn.functional.normalize(table.detach().float(), dim=1)
    found = []
    for part in tokens.long().to(table.device).split(max(1, _SCORES // len(entries))):
        alike = entries[part] @ entries.T
        alike[torch.arange(len(part)), part] = -torch.inf
        found.append(alike.topk(min(_NEAREST, len(entries) - 1)).indices)
    return torch.cat(found).cpu()


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
