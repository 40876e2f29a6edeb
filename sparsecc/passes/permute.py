"""Put neurons in an order in which fast patterns cost less; the model computes what it did."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from sparsecc import patterns
from sparsecc.calibration.context import Context
from sparsecc.calibration.statistics import calibrated
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import around, require_valid, select, untouchable
from sparsecc.graph.sites import Linear, Mlp
from sparsecc.passes._orders import held, held_in_groups, neighbours, spread
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.patterns.nm import NM

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.patterns.base import Pattern

_LEAST_GAIN = 1e-3  # of the scores; a second search from the order found gains less
_NOT_FINITE = Refused("its calibration inputs hold NaN or infinity")


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
class Gather:
    """What Permute does at a layer whose inputs it cannot reorder where they are made. columns: int64[cols], which input of before stands
    at each place.  before, after: as in `Order`."""

    columns: Tensor
    before: float
    after: float

    def __str__(self) -> str:
        return f"inputs gathered in an order in which the pattern keeps {self.after:.1%} of the scores, not {self.before:.1%}"


@dataclass(frozen=True)
class Permute(Pass[Mlp | Linear, Order | Gather]):
    """Reorder the neurons of an Mlp (Linear, activation, Linear), so that blocks or groups of their weights are pruned with less loss.

    second(act(first(x)))  ->  second[:, p](act(first[p](x)))
    layer(x)  ->  layer[:, p](x[p])

    The model computes the same sums in another order. The second line is what `inputs` does. The pass stands before `prune`. It scores
    weights by |w| times the norm of the input where there is calibration, otherwise by |w|.

    Left as they are, with the reason in the report: layers that share a weight, Mlps whose number of neurons the pattern does not divide,
    and Mlps for which no better order is found.

    pattern: the pattern that `prune` will use. `Rx1`: neurons that listen to the same inputs become neighbours in the first layer. `N:M`:
    neurons that matter are spread over the groups of inputs of the second layer.
    inputs: under `N:M`, also reorder the inputs of every other linear layer. They are gathered before the layer, which costs a pass over
    them; layers that read one value share its order.
    """

    examples = (Example({"pattern": "4x1"}, on=("transformer",)),)
    reorders: ClassVar[bool] = True

    targets: Targets = ALL
    ignore: Targets = ()
    pattern: str = "4x1"
    inputs: bool = False

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        height, width = self._mask.part
        if self._groups is None and (width != 1 or height == 1):
            raise RecipeError(
                f"pattern: {self.pattern!r} has no blocks of several outputs by one input, nor groups; permuting gains nothing"
            )
        if self.inputs and self._groups is None:
            raise RecipeError(f"inputs: {self.pattern!r} has no groups of inputs; leave it out")

    @property
    def height(self) -> int:
        """Neurons that have to stand together."""
        return self._mask.part[0] if self._groups is None else self._groups[1]

    def find(self, graph: Graph, context: Context) -> Iterator[Match[Mlp | Linear, Order | Gather]]:
        layers = select(graph, Linear, self.targets, self.ignore) if self.inputs else []
        sites = self._mlps(graph, layers)
        reasons = [self._refuse(site) for site in sites]
        folded = {site.second.name for site, reason in zip(sites, reasons, strict=True) if reason is None}
        gathered = {site.name: self._refuse_layer(graph, site) for site in layers if site.name not in folded}
        judged = [self._judged(site) for site, reason in zip(sites, reasons, strict=True) if reason is None]
        norms = self._norms(graph, [*judged, *(site for site in layers if gathered.get(site.name, "") is None)], context)
        for site, reason in zip(sites, reasons, strict=True):
            layer = self._judged(site)
            yield Match(site, reason or self._ordered(layer, norms.get(layer.name)))
        yield from self._gathers(graph, [site for site in layers if site.name in gathered], gathered, norms)

    def _mlps(self, graph: Graph, layers: Sequence[Linear]) -> list[Mlp]:
        if not self.inputs:
            return around(graph.sites(Mlp), self.targets, self.ignore)
        names = {layer.name for layer in layers}
        return [site for site in graph.sites(Mlp) if {site.first.name, site.second.name} <= names]

    def _gathers(
        self, graph: Graph, layers: Sequence[Linear], refused: Mapping[str, Refused | None], norms: Mapping[str, Tensor]
    ) -> Iterator[Match[Mlp | Linear, Order | Gather]]:
        """One order for all layers that read one value."""
        together: dict[Hashable | None, list[Linear]] = {}
        for site in layers:
            if refused[site.name] is None:
                together.setdefault(graph.source(site), []).append(site)
        found: dict[str, Gather | Refused] = {}
        for group in together.values():
            scores = torch.cat([_scores(site, norms.get(site.name)) for site in group])
            best = self._spread(scores)
            found |= {site.name: best if isinstance(best, Refused) else Gather(*best) for site in group}
        yield from (Match(site, refused[site.name] or found[site.name]) for site in layers)

    def rewrite(self, graph: Graph, site: Mlp | Linear, action: Order | Gather) -> None:
        # as they are now: of two Mlps in a row the second layer of one is the first of the other
        layers = {layer.name: layer for layer in graph.sites(Linear)}
        if isinstance(action, Gather):
            layer = layers[site.name]
            if layer.cols == len(action.columns):
                graph.gather_inputs(layer, action.columns)
        else:
            assert isinstance(site, Mlp)  # whose neurons an `Order` is of
            _reorder(graph, layers[site.first.name], layers[site.second.name], action.rows)

    def _refuse_layer(self, graph: Graph, site: Linear) -> Refused | None:
        if site.cols % self.height:
            return Refused(f"{site.cols} inputs are no multiple of {self.height}")
        return untouchable(site) or (Refused("its inputs are gathered already") if graph.source(site) is None else None)

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
        scores = _scores(judged, norms)
        if self._groups is not None:
            best = self._spread(scores)
            return best if isinstance(best, Refused) else Order(*best)
        if not scores.isfinite().all():
            return _NOT_FINITE
        rows = neighbours(scores, self.height)
        before, after = held(scores, self.height), held(scores[rows], self.height)
        return Order(rows, before, after) if after > before + _LEAST_GAIN else _no_better(before)

    def _spread(self, scores: Tensor) -> tuple[Tensor, float, float] | Refused:
        """An order of the columns of scores [rows, inputs] for N:M; how much of them is kept without it and with it."""
        assert self._groups is not None
        if not scores.isfinite().all():
            return _NOT_FINITE
        columns = spread(scores, *self._groups)
        before, after = held_in_groups(scores, *self._groups), held_in_groups(scores[:, columns], *self._groups)
        return (columns, before, after) if after > before + _LEAST_GAIN else _no_better(before)

    def _judged(self, site: Mlp) -> Linear:
        """The layer whose weights are to fit the pattern."""
        return site.first if self._groups is None else site.second

    @property
    def _groups(self) -> tuple[int, int] | None:
        """N and M."""
        return (self._mask.n, self._mask.m) if isinstance(self._mask, NM) else None

    @property
    def _mask(self) -> Pattern:
        return patterns.parse(self.pattern)


def _reorder(graph: Graph, first: Linear, second: Linear, rows: Tensor) -> None:
    """rows: the neurons between two layers, in their new order."""
    if first.rows != len(rows):
        return  # the original of a model that has lost neurons: there is no telling which ones, and nobody asks
    graph.set_weight(first, first.weight[rows])
    if first.bias is not None:
        graph.set_bias(first, first.bias[rows])
    graph.set_weight(second, second.weight[:, rows])


def _scores(layer: Linear, norms: Tensor | None) -> Tensor:
    """float32[rows, cols], on the CPU."""
    return layer.matrix.detach().cpu().float().abs() * (1.0 if norms is None else norms.cpu().float())


def _no_better(before: float) -> Refused:
    return Refused(f"no order found in which the pattern keeps more than {before:.1%} of the scores")
