"""Blocks of an attention map that are chosen in each call, from its own q and k: the rules there are, and what they cost.

What is stored is no map but a rule: how a block is scored, and which scores are kept. Tokens keep the order that the model has. All is
written without loops over heads, so that it runs wherever the tensors are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.attention import judge
from sparsecc.attention import mass as masses
from sparsecc.attention.base import Asked, Choice, Grid, Pattern, Sample, computed, required


@dataclass(frozen=True, eq=False)
class Rule(ABC):
    """How blocks are scored, and which of them are kept. Of its fields, one may be a tensor."""

    name: ClassVar[str]

    @property
    def number(self) -> int:
        """How many blocks of a row are kept; 0 where scores alone decide."""
        return 0

    @property
    def learnt(self) -> Tensor | None:
        """What was calibrated."""
        return None

    @abstractmethod
    def scores(self, q: Tensor, k: Tensor, scale: float, block: int, causal: bool) -> Tensor:
        """float[batch, heads, query_blocks, key_blocks] of q [batch, heads, tokens, head_dim] and k, which may have fewer heads."""

    def kept(self, scores: Tensor) -> Tensor:
        """bool, shaped as the scores: the `number` highest of each row."""
        best = scores.topk(min(self.number, scores.shape[-1]), -1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)


@dataclass(frozen=True, eq=False)
class Pooled(Rule):
    """A block's score is the product of its mean query and its mean key."""

    name = "pooled"

    per_row: int

    @property
    def number(self) -> int:
        return self.per_row

    def scores(self, q: Tensor, k: Tensor, scale: float, block: int, causal: bool) -> Tensor:
        return _grouped(_means(q, block), _means(k, block).transpose(2, 3)) * scale


@dataclass(frozen=True, eq=False)
class Principal(Rule):
    """A block's score is the attention that its queries give to its keys where both are seen in some directions only.

    basis: float[kv_heads, head_dim, components].
    """

    name = "principal"

    per_row: int
    basis: Tensor

    @property
    def number(self) -> int:
        return self.per_row

    @property
    def learnt(self) -> Tensor:
        return self.basis

    def scores(self, q: Tensor, k: Tensor, scale: float, block: int, causal: bool) -> Tensor:
        basis = self.basis.to(k)
        return _by_rows(_grouped(q, basis[None]), k @ basis, scale, block, causal, _mass)


@dataclass(frozen=True, eq=False)
class Margin(Rule):
    """A block's score is how near its largest score comes to the largest of the same query, at best: 0 where it is the largest, else
    negative. Kept from a threshold on.

    threshold: float[heads], ln λ of each.
    """

    name = "margin"

    threshold: Tensor

    @property
    def learnt(self) -> Tensor:
        return self.threshold

    def scores(self, q: Tensor, k: Tensor, scale: float, block: int, causal: bool) -> Tensor:
        return _by_rows(q, k, scale, block, causal, _nearest)

    def kept(self, scores: Tensor) -> Tensor:
        return scores >= self.threshold.to(scores)[:, None, None]


def rule_of(name: str, number: int, learnt: Tensor | None) -> Rule:
    """Inverse of a rule's `name`, `number` and `learnt`. Raises ValueError for what is none."""
    if name == Pooled.name and learnt is None:
        return Pooled(number)
    if name == Principal.name and learnt is not None:
        return Principal(number, learnt)
    if name == Margin.name and learnt is not None:
        return Margin(learnt)
    raise ValueError(f"no rule {name!r} {'with' if learnt is not None else 'without'} calibrated numbers")


@dataclass(frozen=True, eq=False)
class DynamicMap:
    """Which blocks of an attention map are computed, told by a rule. Raises ValueError for sizes that do not fit.

    required: bool[heads, query_blocks, key_blocks], what is kept in every call: the diagonal, blocks with text, and all that is computed
    in a head that is dense.  density: the share of the blocks that is kept of those that dense attention computes, on average over calls;
    where the rule fixes no number, of the calibration samples.  causal: as in a BlockMap.
    refresh: every so many calls, the first among them, all blocks are computed; 0 where the rule chooses in each call.
    """

    grid: Grid
    block: int
    required: Tensor
    rule: Rule
    density: float
    causal: bool = False
    refresh: int = 0

    def __post_init__(self) -> None:
        blocks = self.grid.blocks(self.block) if self.block > 0 else 0
        if self.required.dtype != torch.bool or self.required.dim() != 3 or tuple(self.required.shape[1:]) != (blocks, blocks):
            raise ValueError(
                f"required is {tuple(self.required.shape)}, for {self.grid.tokens} tokens it has to be (heads, {blocks}, {blocks})"
            )
        if not self.required[:, required(self.grid, self.block, self.causal).to(self.required.device)].all():
            raise ValueError("a block on the diagonal, or one that holds text, is not kept")
        if self.causal and not torch.equal(self.required, self.required.tril()):
            raise ValueError("a causal map keeps no block above its diagonal")
        if self.rule.number < 0 or (isinstance(self.rule, Margin) and len(self.rule.threshold) != self.heads):
            raise ValueError(f"the rule is not one for {self.heads} heads")
        if self.refresh < 0 or self.refresh == 1:
            raise ValueError(f"all blocks are computed every {self.refresh} calls")

    @property
    def heads(self) -> int:
        return len(self.required)

    @property
    def full(self) -> Tensor:
        """bool[query_blocks, key_blocks]: what dense attention computes."""
        return computed(torch.ones_like(self.required[0]), self.causal)

    @property
    def dense_heads(self) -> list[int]:
        """The heads that keep every block in every call."""
        least = self.required.sum(-1) if self.counts is None else self.counts
        whole = (least == self.full.sum(-1)).all(1)
        if isinstance(self.rule, Margin):
            whole |= self.rule.threshold.isneginf()
        return whole.nonzero().squeeze(1).tolist()

    @property
    def chosen_density(self) -> float:
        """`density` of the calls in which the rule chooses."""
        return (self.density * self.refresh - 1) / (self.refresh - 1) if self.refresh else self.density

    @property
    def counts(self) -> Tensor | None:
        """int64[heads, query_blocks]: how many blocks of each row are kept where the rule chooses; None where scores alone decide."""
        return None if isinstance(self.rule, Margin) else _counts(self.required, self.full, self.rule.number)

    def same_as(self, other: object) -> bool:
        """Whether another map chooses the same blocks for every q and k."""
        if not isinstance(other, DynamicMap) or not self.required.equal(other.required):
            return False
        settings = [(each.grid, each.block, each.causal, each.refresh, each.rule.name, each.rule.number) for each in (self, other)]
        learnt, its = self.rule.learnt, other.rule.learnt
        return settings[0] == settings[1] and (learnt is its if learnt is None or its is None else learnt.equal(its))

    def __str__(self) -> str:
        """For reports: its density, and when blocks are chosen."""
        if not self.refresh:
            return f"density {self.density:.2f}, blocks chosen in each call"
        average = f"density {self.density:.2f} on average over {self.refresh} calls"
        dense = f"every {self.nth} call, from the first on, computes all blocks"
        return f"{average}: {dense}, the others choose {self.chosen_density:.2f} of them"

    @property
    def nth(self) -> str:
        """`refresh` as an ordinal number."""
        ends = {1: "st", 2: "nd", 3: "rd"}
        return f"{self.refresh}{'th' if self.refresh // 10 % 10 == 1 else ends.get(self.refresh % 10, 'th')}"

    def select(self, q: Tensor, k: Tensor, scale: float) -> Tensor:
        """bool[batch, heads, query_blocks, key_blocks]: what is kept in a call in which the rule chooses."""
        return select(self.rule, self.required, q, k, scale, self.block, self.causal)


def select(rule: Rule, needed: Tensor, q: Tensor, k: Tensor, scale: float, block: int, causal: bool) -> Tensor:
    """bool[batch, heads, query_blocks, key_blocks]: what is kept. needed: a map's `required`. The host does not wait for the device."""
    needed = needed.to(q.device)
    full = computed(torch.ones_like(needed[0]), causal)
    scores = rule.scores(q, k, scale, block, causal).masked_fill(~full, -torch.inf).masked_fill(needed, torch.inf)
    return (rule.kept(scores) & full) | needed


def refreshed(keep: Tensor, calls: Tensor | None, refresh: int, causal: bool) -> Tensor:
    """What is kept in a call: all that dense attention computes where the number of calls before, int64[], is a multiple of `refresh`, else
    `keep`, which a rule has chosen. The host does not wait for the device. Raises ValueError where nothing counts calls."""
    if not refresh:
        return keep
    if calls is None:
        raise ValueError(f"all blocks are computed every {refresh} calls, which nothing counts")
    return keep | (computed(torch.ones_like(keep[0, 0]), causal) & (calls % refresh == 0))


@dataclass(frozen=True)
class Dynamic(Pattern):
    """A pattern that gives a rule."""

    dynamic = True
    reorders = False
    needs_grid = False
    exact_density = False

    @abstractmethod
    def rule(self, asked: Asked) -> Rule:
        """The rule of one site."""

    @property
    def dense_every(self) -> int:
        """A DynamicMap's `refresh`."""
        return 0

    @property
    def stateful(self) -> bool:
        return self.dense_every > 0

    def choose(self, asked: Asked) -> Choice[DynamicMap]:
        needed = required(asked.grid, asked.block, asked.causal).repeat(asked.heads, 1, 1)
        found = _measured(DynamicMap(asked.grid, asked.block, needed, self.rule(asked), 1.0, asked.causal, self.dense_every), asked)
        if not asked.samples:
            return Choice(found)
        lost, error = _costs(found, asked)
        if asked.max_error is not None:
            wrong = torch.tensor([not one <= asked.max_error for one in error.tolist()])
            found = _measured(replace(found, required=torch.where(wrong[:, None, None], found.full, found.required)), asked)
        return Choice(found, lost, error)


def per_row(asked: Asked) -> int:
    """The most blocks of each row that stay, over all rows, within the density asked for; rows keep what is required in any case."""
    needed = required(asked.grid, asked.block, asked.causal)
    full = computed(torch.ones_like(needed), asked.causal)
    most = max(round(asked.density * int(full.count_nonzero())), int(needed.count_nonzero()))
    return bisect_right(range(len(full) + 1), most, key=lambda count: int(_counts(needed, full, count).sum())) - 1


def spread(asked: Asked, rule: Callable[[Sample], Tensor]) -> Tensor:
    """float[heads, ..]: the scores by which blocks are chosen, of all samples, without those that are kept in any case."""
    needed = required(asked.grid, asked.block, asked.causal)
    free = computed(~needed, asked.causal)
    return torch.cat([rule(sample)[:, :, free].transpose(0, 1).flatten(1) for sample in asked.samples], 1)


def _counts(needed: Tensor, full: Tensor, number: int) -> Tensor:
    return needed.sum(-1).clamp(min=number).minimum(full.sum(-1))


def _measured(found: DynamicMap, asked: Asked) -> DynamicMap:
    """The map with its density."""
    counts, whole = found.counts, int(found.full.count_nonzero())
    if counts is not None:
        chosen = int(counts.sum()) / (found.heads * whole)
    else:
        kept = [found.select(*_precise(sample)[:2], asked.scale).float().mean((0, 1)).sum() for sample in asked.samples]
        chosen = float(torch.stack(kept).mean()) / whole
    return replace(found, density=(1 + (found.refresh - 1) * chosen) / found.refresh if found.refresh else chosen)


def _costs(found: DynamicMap, asked: Asked) -> tuple[Tensor, Tensor]:
    """(lost mass, output error) of each head, as `Choice` has them, of calls in which the rule chooses."""
    kept = torch.cat([found.select(*_precise(sample)[:2], asked.scale) for sample in asked.samples])
    lost, error = [], []
    for head in range(asked.heads):
        inputs, of_head = judge.inputs_of(asked, head), kept[:, head]
        parts = [
            masses.output_errors(q, k, v, asked.scale, asked.block, [keep], asked.causal)
            for (q, k, v), keep in zip(inputs, of_head, strict=True)
        ]
        shares = [
            judge.lost_mass(masses.measure(q, k, asked.scale, asked.block, asked.causal).mass, keep)
            for (q, k, _), keep in zip(inputs, of_head, strict=True)
        ]
        off, whole = sum(one for [one], _ in parts), sum(power for _, power in parts)
        lost.append(sum(shares) / len(shares))
        error.append((off / whole) ** 0.5 if whole else 0.0)
    return torch.tensor(lost), torch.tensor(error)


def _precise(sample: Sample) -> Sample:
    return Sample(*(x.detach().float() for x in sample))


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """q [batch, heads, ..] times k [batch, kv_heads, ..], each of whose heads serves as many of q."""
    return (q.unflatten(1, (k.shape[1], -1)) @ k.unsqueeze(2)).flatten(1, 2)


def _means(x: Tensor, block: int) -> Tensor:
    """float[batch, heads, blocks, head_dim]"""
    whole = functional.pad(x, (0, 0, 0, -x.shape[2] % block)).unflatten(2, (-1, block))
    first = torch.arange(0, x.shape[2], block, device=x.device)
    sizes = (x.shape[2] - first).clamp(max=block)
    return whole.sum(3, dtype=torch.promote_types(x.dtype, torch.float32)) / sizes[:, None]


def _by_rows(q: Tensor, k: Tensor, scale: float, block: int, causal: bool, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What `reduce` makes of the scores [batch, heads, queries, tokens] of each block of queries: the whole map is never held."""
    at, keys = torch.arange(q.shape[2], device=q.device), k.transpose(2, 3)
    rows: list[Tensor] = []
    for part, queries in zip(q.split(block, 2), at.split(block), strict=True):
        scores = scale * _grouped(part, keys).to(torch.promote_types(q.dtype, torch.float32))
        rows.append(reduce(scores.masked_fill(at > queries[:, None], -torch.inf) if causal else scores, block))
    return torch.stack(rows, 2)


def _mass(scores: Tensor, block: int) -> Tensor:
    return _columns(scores.softmax(-1).sum(2), block, 0.0).sum(-1)


def _nearest(scores: Tensor, block: int) -> Tensor:
    return (_columns(scores, block, -torch.inf).amax(-1) - scores.amax(-1, keepdim=True)).amax(2)


def _columns(x: Tensor, block: int, filling: float) -> Tensor:
    """[.., tokens] → [.., key_blocks, block]"""
    return functional.pad(x, (0, -x.shape[-1] % block), value=filling).unflatten(-1, (-1, block))


def principal_components(samples: Sequence[Sample], count: int) -> Tensor:
    """float[kv_heads, head_dim, count] of the keys, orthonormal, those with the largest variance first. The mean is left out: it adds the
    same to all scores of a query."""
    keys = torch.cat([sample.k.detach().transpose(0, 1).flatten(1, 2).double() for sample in samples], 1)
    centred = keys - keys.mean(1, keepdim=True)
    vectors = torch.linalg.eigh(centred.transpose(1, 2) @ centred).eigenvectors
    return vectors.flip(2)[:, :, :count].float().cpu().contiguous()
