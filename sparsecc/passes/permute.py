"""Put neurons in an order in which fast patterns cost less; the model computes what it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparsecc import formats
from sparsecc.errors import RecipeError, Refused
from sparsecc.formats.nm import NM
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.sites import Linear, Mlp
from sparsecc.passes._calibrate import calibrated
from sparsecc.passes._orders import held, held_in_groups, neighbours, spread
from sparsecc.passes._select import around, require_valid, untouchable
from sparsecc.passes.base import Context, Match, Pass

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.formats.base import Format

_LEAST_GAIN = 1e-4  # of the scores


@dataclass(frozen=True)
class Order:
    """What Permute does at an Mlp. rows: int64[neurons], which neuron of before stands at each place.  before, after: the share of the
    scores that the half (under N:M the N/M) that such a pattern would keep holds."""

    rows: Tensor
    before: float
    after: float

    def __str__(self) -> str:
        return f"neurons in an order in which the pattern keeps {self.after:.1%} of the scores, not {self.before:.1%}"


@dataclass(frozen=True)
class Permute(Pass):
    """Neurons change their places, so that blocks or groups of their weights are pruned with less loss.

    second(act(first(x)))  ->  second[:, p](act(first[p](x))), the same sums in another order

    pattern: what `prune` is to find. R×1: neurons that listen to the same inputs become neighbours in `first`.  N:M: neurons that matter
    are spread over the groups of inputs of `second`.  Scores are those of wanda where there is calibration, else of magnitude.
    """

    reorders: ClassVar[bool] = True

    targets: Targets = ALL
    ignore: Targets = ()
    pattern: str = "4x1"

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        height, width = self._format.part
        if self._groups is None and (width != 1 or height == 1):
            raise RecipeError(
                f"pattern: {self.pattern!r} has no blocks of several outputs by one input, nor groups; permuting gains nothing"
            )

    @property
    def height(self) -> int:
        """Neurons that have to stand together."""
        return self._format.part[0] if self._groups is None else self._groups[1]

    def find(self, graph: Graph, context: Context) -> Iterator[Match]:
        sites = around(graph.sites(Mlp), self.targets, self.ignore)
        reasons = [self._refuse(site) for site in sites]
        norms = self._norms(graph, [self._judged(site) for site, reason in zip(sites, reasons, strict=True) if reason is None], context)
        for site, reason in zip(sites, reasons, strict=True):
            judged = self._judged(site)
            yield Match(site, reason or self._ordered(judged, norms.get(judged.name)))

    def rewrite(self, graph: Graph, match: Match) -> None:
        site, order = match.site, match.action
        assert isinstance(site, Mlp)
        assert isinstance(order, Order)
        # as they are now: of two Mlps in a row the second layer of one is the first of the other
        layers = {layer.name: layer for layer in graph.sites(Linear)}
        first, second = layers[site.first.name], layers[site.second.name]
        if first.rows != len(order.rows):
            return  # the original of a model that has lost neurons: there is no telling which ones, and nobody asks
        graph.set_weight(first, first.weight[order.rows])
        if first.bias is not None:
            graph.set_bias(first, first.bias[order.rows])
        graph.set_weight(second, second.weight[:, order.rows])

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

    def _ordered(self, judged: Linear, norms: Tensor | None) -> Order | Refused:
        scores = judged.matrix.detach().cpu().float().abs() * (1.0 if norms is None else norms.cpu().float())
        if not scores.isfinite().all():
            return Refused("its calibration inputs hold NaN or infinity")
        if self._groups is None:
            rows = neighbours(scores, self.height)
            before, after = held(scores, self.height), held(scores[rows], self.height)
        else:
            rows = spread(scores, *self._groups)
            before, after = held_in_groups(scores, *self._groups), held_in_groups(scores[:, rows], *self._groups)
        if after <= before + _LEAST_GAIN:
            return Refused(f"no order found in which the pattern keeps more than {before:.1%} of the scores")
        return Order(rows, before, after)

    def _judged(self, site: Mlp) -> Linear:
        """The layer whose weights are to fit the pattern."""
        return site.first if self._groups is None else site.second

    @property
    def _groups(self) -> tuple[int, int] | None:
        """N and M."""
        return (self._format.n, self._format.m) if isinstance(self._format, NM) else None

    @property
    def _format(self) -> Format:
        return formats.from_pattern(self.pattern)
