"""Put neurons in an order in which fast patterns cost less; the model computes what it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from sparsecc import formats
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets, matches
from sparsecc.graph.sites import Linear, Mlp
from sparsecc.passes._calibrate import calibrated
from sparsecc.passes._select import require_valid, untouchable
from sparsecc.passes.base import Context, Match, Pass

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_GAIN = 1e-4  # of the scores


@dataclass(frozen=True)
class Order:
    """What Permute does at an Mlp. rows: int64[neurons], which neuron of before stands at each place.  before, after: the share of the
    scores of the first layer that half of its blocks hold, the highest ones."""

    rows: Tensor
    before: float
    after: float

    def __str__(self) -> str:
        return f"neurons in an order in which half of the blocks hold {self.after:.1%} of the scores, not {self.before:.1%}"


@dataclass(frozen=True)
class Permute(Pass):
    """Neurons that listen to the same inputs become neighbours, so that blocks of their weights are kept or dropped with less loss.

    second(act(first(x)))  ->  second[:, p](act(first[p](x))), the same sums in another order

    pattern: the blocks that `prune` is to find, R×1.  Scores are those of wanda where there is calibration, else of magnitude.
    """

    reorders: ClassVar[bool] = True

    targets: Targets = ALL
    ignore: Targets = ()
    pattern: str = "4x1"

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        height, width = formats.from_pattern(self.pattern).part
        if width != 1 or height == 1:
            raise RecipeError(f"pattern: {self.pattern!r} has no blocks of several outputs by one input; permuting them gains nothing")

    @property
    def height(self) -> int:
        return formats.from_pattern(self.pattern).part[0]

    def find(self, graph: Graph, context: Context) -> Iterator[Match]:
        sites = [site for site in graph.sites(Mlp) if self._meant(site)]
        refused = {site.name: reason for site in sites if (reason := self._refuse(site))}
        norms = self._norms(graph, [site.first for site in sites if site.name not in refused], context)
        for site in sites:
            yield Match(site, refused.get(site.name) or self._ordered(site.first, norms.get(site.first.name)))

    def rewrite(self, graph: Graph, match: Match) -> None:
        site, order = match.site, match.action
        assert isinstance(site, Mlp)
        assert isinstance(order, Order)
        graph.set_weight(site.first, site.first.weight[order.rows])
        if site.first.bias is not None:
            graph.set_bias(site.first, site.first.bias[order.rows])
        graph.set_weight(site.second, site.second.weight[:, order.rows])

    def _meant(self, site: Mlp) -> bool:
        """By its own name or kind, or by that of its first layer."""
        if self.ignore and (matches(site, self.ignore) or matches(site.first, self.ignore)):
            return False
        return matches(site, self.targets) or matches(site.first, self.targets)

    def _refuse(self, site: Mlp) -> Refused | None:
        if site.first.rows != site.second.cols:
            return Refused(f"{site.first.rows} neurons are not the {site.second.cols} inputs of the next layer")
        if site.first.rows % self.height:
            return Refused(f"{site.first.rows} neurons are no multiple of {self.height}")
        return untouchable(site.first) or untouchable(site.second)

    def _norms(self, graph: Graph, sites: list[Linear], context: Context) -> dict[str, Tensor]:
        if not context.calibration or not sites:
            return {}
        return {site.name: stats["norms"] for site, stats in calibrated(graph, sites, ("norms",), context) if stats}

    def _ordered(self, first: Linear, norms: Tensor | None) -> Order | Refused:
        scores = first.matrix.detach().float().abs() * (1.0 if norms is None else norms.float())
        if not scores.isfinite().all():
            return Refused("its calibration inputs hold NaN or infinity")
        rows = neighbours(scores, self.height)
        before, after = held(scores, self.height), held(scores[rows], self.height)
        if after <= before + _LEAST_GAIN:
            return Refused(f"no order found in which half of the blocks hold more than {before:.1%} of the scores")
        return Order(rows, before, after)


def neighbours(scores: Tensor, height: int) -> Tensor:
    """int64[rows]: an order of the rows [rows, inputs] in which blocks of `height` of them agree on their inputs.

    Greedy: the row with the most to say opens a block, and those join whose scores, above what is usual at each input, go best with what
    the block holds already.
    """
    apart = scores - scores.mean(dim=1, keepdim=True)
    free = torch.ones(len(scores), dtype=torch.bool)
    weight = apart.norm(dim=1)
    found: list[int] = []
    for _ in range(len(scores) // height):
        block = [int(torch.where(free, weight, -torch.inf).argmax())]
        free[block[0]] = False
        total = apart[block[0]].clone()
        while len(block) < height:
            fit = torch.where(free, apart @ total / weight.clamp(min=1e-30), -torch.inf)
            block.append(int(fit.argmax()))
            free[block[-1]] = False
            total += apart[block[-1]]
        found += block
    return torch.tensor(found)


def held(scores: Tensor, height: int) -> float:
    """The share of all scores that the higher half of the blocks of `height` rows × 1 input holds."""
    blocks = scores.reshape(-1, height, scores.shape[1]).sum(1).flatten()
    total = float(blocks.double().sum())
    return float(blocks.sort(descending=True).values[: len(blocks) // 2].double().sum()) / total if total else 1.0
