"""Set the weights to zero that matter least."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from sparsecc import memory
from sparsecc.calibration.context import Context
from sparsecc.calibration.sensitivity import Losses
from sparsecc.calibration.statistics import calibrated, in_groups, work_in
from sparsecc.calibration.variations import Varied
from sparsecc.criteria.base import unusable
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import require_valid, select
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._budget import Budget, limit_of, nbytes
from sparsecc.passes._device import on_device, require_device
from sparsecc.passes._scratch import in_scratch
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.pruning import Cut, Pruning
from sparsecc.ranks.work import each

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.criteria.base import Stats


@dataclass(frozen=True)
class Prune(Pass[WeightSite, Cut]):
    """Score the weights, choose a mask of the pattern, write zeros. The weight stays dense until `pack` stores it.

    linear(x, W, b)  ->  linear(x, W·keep, b)

    Counts are exact: `round(sparsity · units)` weights or blocks are removed, and among equal scores the lower index stays. Inputs of a
    convolution are ordered by kernel tap, channels innermost, so that `2:4` and `1x4` run along the channels of one tap.

    Left dense, with the reason in the report: layers whose sizes the pattern does not divide, small layers, grouped convolutions, weights
    that hold NaN or infinity, that several layers share or that are packed already, and layers that calibration does not reach or gives
    only zeros or NaN.

    criterion: what a weight is worth; a member of `criteria`.
    refinement: swaps kept weights for others after the criterion; a member of `refinements`. The criterion has to leave the weights as they
    are.
    rows: how much the error of each output of a layer counts. `equal`: all alike. `fisher`: by how much the model's outputs move with it
    (torch models).
    compare: `layer` ranks all weights of a layer together. `output` ranks each output by itself, so that every output gets the same
    sparsity. The criterion's own when not given (`output` for `wanda`, `layer` for all others). An error with N:M, which ranks within its
    groups.
    variations: how many further inputs to make of each calibration sample for the criterion, as `recover` makes them. Allocations see only
    the samples.
    pattern: which masks are allowed. `unstructured`: any. `RxC`: blocks of R outputs × C inputs, kept or removed whole. `N:M`: N kept of
    every M consecutive inputs.
    sparsity: the share of zeros over all layers pruned, in [0, 1). 0.5 when not given; always 1 - N/M for N:M.
    allocation: how the sparsity is divided over the layers; a member of `allocations`. N:M takes only `uniform`.
    floor: the least share of its weights that a layer keeps under every allocation but `uniform`. A quarter of 1 - sparsity when not given;
    0.05 under `sensitivity` with a budget.
    budget: instead of a sparsity: what all layers pruned may take once they are packed, as `{bytes: 20MB}` or, where code is generated,
    `{milliseconds: 4.5}`.
    keep_zeros: zeros that the weights came with stay under criteria that give weights new values, so that there may be more zeros than
    asked for.
    seed: for everything that is drawn; the run's own seed when not given.
    min_weights: layers with fewer weights stay dense.
    device: a device of torch, as `cuda`, on which the model runs and its layers are pruned (torch models). Where the weights lie when not
    given.
    """

    examples = (Example({"pattern": "4x1", "sparsity": 0.7}),)

    targets: Targets = ALL
    ignore: Targets = ()
    criterion: str = "magnitude"
    refinement: str | None = None
    rows: str = "equal"
    compare: str | None = None
    variations: int = 0
    pattern: str = "unstructured"
    sparsity: float | None = None
    allocation: str = "uniform"
    floor: float | None = None
    budget: Budget | None = None
    keep_zeros: bool = True
    seed: int | None = None
    min_weights: int = 1024
    device: str | None = None

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        require_device(self.device)
        pruning = self.pruning
        if self.variations < 0:
            raise RecipeError(f"variations: {self.variations} is negative")
        if self.variations and not pruning.needs:
            raise RecipeError(f"variations: {self.criterion} looks at no inputs; leave it out, or take another criterion")

    @property
    def pruning(self) -> Pruning:
        """What is asked for, apart from where and on what."""
        return Pruning(
            criterion=self.criterion,
            refinement=self.refinement,
            rows=self.rows,
            compare=self.compare,
            pattern=self.pattern,
            sparsity=self.sparsity,
            allocation=self.allocation,
            floor=self.floor,
            limit=None if self.budget is None else limit_of(self.budget),
            keep_zeros=self.keep_zeros,
            min_weights=self.min_weights,
        )

    @property
    def asked_pattern(self) -> str:
        return self.pattern

    def find(self, graph: Graph, context: Context) -> Iterator[Match[WeightSite, Cut]]:
        """A criterion that calibrates sees the inputs that the layers pruned before give a layer."""
        pruning = self.pruning
        sites = select(graph, WeightSite, self.targets, self.ignore)
        found: dict[str, Cut | Refused] = {site.name: reason for site in sites if (reason := pruning.refuse(site, self.targets))}
        whole, graph, refused = graph, on_device(graph, self.device), len(found)
        taken = [site for site in select(graph, WeightSite, self.targets, self.ignore) if site.name not in found]
        context = context if self.seed is None else replace(context, seed=self.seed)
        scores, losses = _Scores(pruning, graph, taken, context), Losses(pruning, graph, taken, context)
        shares = pruning.allocate(taken, scores.of, losses.of, self._costs(pruning, whole, taken, context))
        if pruning.needs and taken:
            working = graph.copy()
            for site, cut in self._calibrated(working, taken, shares, self._varied(graph, context)):
                found[site.name] = cut
                if isinstance(cut, Cut):
                    working.set_weight(site, cut.weight)
                memory.trim()  # what calibration freed lies between the weights that stay: half as much again
                context.tell(f"pruning by {self.criterion}", len(found) - refused, len(taken), site.name)
        else:
            found |= {site.name: _kept(pruning.cut(site, shares[site.name], {}, context.seed), context) for site in taken}
        yield from (Match(site, found[site.name]) for site in sites)

    def rewrite(self, graph: Graph, site: WeightSite, cut: Cut) -> None:
        graph.set_weight(site, cut.weight)

    def _calibrated(
        self, graph: Graph, sites: Sequence[WeightSite], shares: Mapping[str, float], context: Context
    ) -> Iterator[tuple[WeightSite, Cut | Refused]]:
        """Ranks divide the sites that read one value."""
        pruning = self.pruning

        def cut(known: tuple[WeightSite, Stats]) -> Cut | Refused:
            site, stats = known
            return pruning.cut(site, shares[site.name], stats, context.seed)

        for group in in_groups(graph, sites, pruning.needs, context):
            for (site, _), made in zip(group, each("pruning", group, work_in, cut), strict=True):
                yield site, _kept(made, context)

    def _varied(self, graph: Graph, context: Context) -> Context:
        """With the samples, and the others that are made of them."""
        if not self.variations or not context.calibration:
            return context
        samples = Varied.of(graph.inputs, context.calibration, graph.embeddings())
        if not samples.varies:
            raise RecipeError("variations: no input holds floats, or integers at which an embedding is read; leave it out")
        made = samples.others(self.variations, range(len(samples.samples)), context.seed)
        return replace(context, calibration=[*samples.samples, *made])

    def _costs(self, pruning: Pruning, graph: Graph, sites: Sequence[WeightSite], context: Context) -> dict[str, Callable[[int], float]]:
        """What a site takes with so many units kept, in the unit of the budget, by name."""
        if pruning.limit is None or pruning.limit.unit == "bytes":
            return {site.name: partial(nbytes, site, pruning.masks) for site in sites}
        if context.clock is None:
            raise RecipeError(
                "budget: milliseconds are measured by compile() for the machine that it runs on; give bytes for other targets"
            )
        times = context.clock(graph, self.pattern, [site.name for site in sites])
        return {site.name: partial(_at_share, times[site.name], pruning.units(site)) for site in sites}


class _Scores:
    """What the units of every site are worth in the model as it came, measured once an allocation asks."""

    def __init__(self, pruning: Pruning, graph: Graph, sites: Sequence[WeightSite], context: Context) -> None:
        self._pruning, self._graph, self._sites, self._context = pruning, graph, sites, context
        self._found: dict[str, Tensor] = {}

    def of(self, site: WeightSite) -> Tensor:
        pruning, seed = self._pruning, self._context.seed
        if not pruning.needs:
            return pruning.unit_scores(site, {}, seed)
        if not self._found:
            for other, stats in calibrated(self._graph, self._sites, pruning.needs, self._context):
                if unusable(stats, pruning.needs):
                    whole = torch.full((pruning.units(other),), torch.inf, device=other.matrix.device)  # it stays as it is
                    self._found[other.name] = whole
                else:
                    self._found[other.name] = pruning.unit_scores(other, stats, seed)
        return self._found[site.name]


def _kept(cut: Cut | Refused, context: Context) -> Cut | Refused:
    return cut if isinstance(cut, Refused) else replace(cut, weight=in_scratch(cut.weight, context.scratch))


def _at_share(time: Callable[[float], float], units: int, kept: int) -> float:
    return time(kept / units)
