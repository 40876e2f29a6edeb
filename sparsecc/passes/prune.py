"""Set the weights to zero that matter least."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from sparsecc import allocations, criteria, memory, patterns, refinements, registry
from sparsecc.allocations.base import Layer
from sparsecc.criteria.base import Chosen, project_of, within_outputs
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._budget import Budget, limit_of, nbytes
from sparsecc.passes._calibrate import calibrated, singular, unusable
from sparsecc.passes._device import on_device, require_device
from sparsecc.passes._scratch import in_scratch
from sparsecc.passes._select import never_trained, require_valid, select, untouchable
from sparsecc.passes._sensitivity import Losses
from sparsecc.passes._vary import Varied
from sparsecc.passes.base import Context, Example, Match, Pass, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.criteria.base import Stats
    from sparsecc.patterns.base import Pattern


ROWS = ("equal", "fisher")
COMPARISONS = ("layer", "output")
_LEAST_EFFECT = 1e-3  # of the mean, which a row counts at least


@dataclass(frozen=True)
class Cut:
    """What Prune does at a site. sparsity: of the new weight.  weight: the new one.  note: on zeros that were there, on what was
    calibrated."""

    pattern: str
    sparsity: float
    criterion: str
    weight: Tensor
    note: str = ""

    def __str__(self) -> str:
        return f"{self.pattern}, {self.sparsity:.1%} zeros, by {self.criterion}{self.note}"


@dataclass(frozen=True)
class Prune(Pass):
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
        registry.require("criterion", "criteria", self.criterion)
        registry.require("allocation", "allocations", self.allocation)
        if self.rows not in ROWS:
            raise RecipeError(f"rows: no {self.rows!r}{registry.did_you_mean(self.rows, list(ROWS))}")
        if self.compare is not None and self.compare not in COMPARISONS:
            raise RecipeError(f"compare: no {self.compare!r}{registry.did_you_mean(self.compare, list(COMPARISONS))}")
        if self.compare is not None and self.format.fixed_sparsity is not None:
            raise RecipeError(f"compare: {self.pattern} compares the weights of a group; leave it out")
        self._check_refinement()
        fixed = self.format.fixed_sparsity
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity: {self.sparsity} is not in [0, 1); it is the fraction of zeros")
        if fixed is not None and self.sparsity is not None and abs(self.sparsity - fixed) > 1e-6:
            raise RecipeError(f"sparsity: pattern {self.pattern} has {fixed:.4g}, not {self.sparsity}; leave one of them out")
        if fixed is not None and self.allocation != "uniform":
            raise RecipeError(f"allocation: every layer has the same sparsity under {self.pattern}, only 'uniform' can be asked for")
        if self.budget is None:
            if self.floor is not None and not 0 <= self.floor <= 1 - self.share + 1e-9:  # 1 - 0.9 is less than 0.1
                raise RecipeError(f"floor: {self.floor} is not in [0, {1 - self.share:.4g}], what sparsity {self.share:.4g} keeps")
        else:
            self._check_budget(self.budget)
        if self.variations < 0:
            raise RecipeError(f"variations: {self.variations} is negative")
        if self.variations and not self.needs:
            raise RecipeError(f"variations: {self.criterion} looks at no inputs; leave it out, or take another criterion")
        if self.min_weights < 0:
            raise RecipeError(f"min_weights: {self.min_weights} is negative")

    def _check_budget(self, budget: Budget) -> None:
        limit_of(budget)
        if self.format.fixed_sparsity is not None:
            raise RecipeError(f"budget: {self.pattern} has one size; leave it out, or take another pattern")
        if self.sparsity is not None:
            raise RecipeError("budget: is what decides the sparsity; leave one of them out")
        if self.floor is not None and not 0 <= self.floor < 1:
            raise RecipeError(f"floor: {self.floor} is not in [0, 1)")

    def _check_refinement(self) -> None:
        if self.refinement is None:
            return
        registry.require("refinement", "refinements", self.refinement)
        if criteria.create(self.criterion).updates:
            raise RecipeError(
                f"refinement: {self.criterion} gives the weights that stay new values, for its own mask; "
                f"{self.refinement} can follow a criterion that leaves them as they are, such as wanda"
            )

    @property
    def format(self) -> Pattern:
        return patterns.parse(self.pattern)

    @property
    def share(self) -> float:
        """The sparsity over all layers pruned, where no budget decides it."""
        fixed = self.format.fixed_sparsity
        if fixed is not None:
            return fixed
        return 0.5 if self.sparsity is None else self.sparsity

    @property
    def asked_pattern(self) -> str:
        return self.pattern

    def find(self, graph: Graph, context: Context) -> Iterator[Match]:
        """A criterion that calibrates sees the inputs that the layers pruned before give a layer."""
        sites = select(graph, WeightSite, self.targets, self.ignore)
        found: dict[str, Cut | Refused] = {site.name: reason for site in sites if (reason := self.refuse(site))}
        whole, graph = graph, on_device(graph, self.device)
        taken = [site for site in select(graph, WeightSite, self.targets, self.ignore) if site.name not in found]
        context = context if self.seed is None else replace(context, seed=self.seed)
        shares = self._allocate(graph, taken, context, self._costs(whole, taken, context))
        if self.needs and taken:
            working = graph.copy()
            for done, (site, stats) in enumerate(calibrated(working, taken, self.needs, self._varied(graph, context)), 1):
                found[site.name] = cut = self._cut(site, shares[site.name], stats, context)
                if isinstance(cut, Cut):
                    working.set_weight(site, cut.weight)
                memory.trim()  # what calibration freed lies between the weights that stay: half as much again
                if context.progress is not None:
                    context.progress(Progress(f"pruning by {self.criterion}", done, len(taken), site.name))
        else:
            found |= {site.name: self._cut(site, shares[site.name], {}, context) for site in taken}
        yield from (Match(site, found[site.name]) for site in sites)

    def rewrite(self, graph: Graph, match: Match) -> None:
        site, cut = match.site, match.action
        assert isinstance(site, WeightSite)
        assert isinstance(cut, Cut)
        graph.set_weight(site, cut.weight)

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that criterion, refinement, the weighing of rows and the report read."""
        needs = criteria.create(self.criterion).needs
        if self.refinement is not None:
            needs = (*needs, *refinements.create(self.refinement).needs)
        weighed = ("effects",) if self.rows == "fisher" else ()
        counted = ("tokens",) if "hessian" in needs else ()
        return tuple(dict.fromkeys((*needs, *weighed, *counted)))

    def _varied(self, graph: Graph, context: Context) -> Context:
        """With the samples, and the others that are made of them."""
        if not self.variations or not context.calibration:
            return context
        samples = Varied.of(graph.inputs, context.calibration, graph.embeddings())
        if not samples.varies:
            raise RecipeError("variations: no input holds floats, or integers at which an embedding is read; leave it out")
        made = samples.others(self.variations, range(len(samples.samples)), context.seed)
        return replace(context, calibration=[*samples.samples, *made])

    @property
    def _by(self) -> str:
        return self.criterion if self.refinement is None else f"{self.criterion}, then {self.refinement}"

    def refuse(self, site: WeightSite) -> Refused | None:
        """Why a site stays as it is before anything is measured, None when it does not."""
        if site.rows * site.cols < self.min_weights:
            return Refused(f"{site.rows * site.cols} weights are fewer than min_weights {self.min_weights}")
        return untouchable(site) or never_trained(site, self.targets) or self.format.check(site.rows, site.cols)

    def _allocate(
        self, graph: Graph, sites: Sequence[WeightSite], context: Context, costs: dict[str, Callable[[int], float]]
    ) -> dict[str, float]:
        """The sparsity of each site by name. costs: of a site with so many units kept, by name."""
        if not sites:
            return {}
        scores, losses = _Scores(self, graph, sites, context), Losses(self, graph, sites, context)
        layers = [
            Layer(
                name=site.name,
                shape=site.shape,
                units=site.rows * site.cols // self.format.unit_size,
                unit_scores=partial(scores.of, site.name),
                loss=partial(losses.of, site.name),
                cost=costs[site.name],
            )
            for site in sites
        ]
        allocation = allocations.create(self.allocation)
        if self.budget is not None:
            shares = allocation.within(layers, limit_of(self.budget), self.floor)
        else:
            shares = allocation.allocate(layers, self.share, (1 - self.share) / 4 if self.floor is None else self.floor)
        return {site.name: share for site, share in zip(sites, shares, strict=True)}

    def _costs(self, graph: Graph, sites: Sequence[WeightSite], context: Context) -> dict[str, Callable[[int], float]]:
        """What a site takes with so many units kept, in the unit of the budget, by name."""
        if self.budget is None or limit_of(self.budget).unit == "bytes":
            return {site.name: partial(nbytes, site, self.format) for site in sites}
        if context.clock is None:
            raise RecipeError(
                "budget: milliseconds are measured by compile() for the machine that it runs on; give bytes for other targets"
            )
        times = context.clock(graph, self.pattern, [site.name for site in sites])
        units = {site.name: site.rows * site.cols // self.format.unit_size for site in sites}
        return {name: partial(_at_share, times[name], count) for name, count in units.items()}

    def unit_scores(self, site: WeightSite, stats: Stats, seed: int) -> Tensor:
        score = criteria.create(self.criterion).score(self.weighed(site.matrix, stats), stats, site_seed(seed, site.name))
        return self.format.unit_scores(score)

    def weighed(self, matrix: Tensor, stats: Stats) -> Tensor:
        """The matrix with each row as large as it counts."""
        return matrix if self.rows == "equal" else (matrix * _counts(stats).to(matrix.device)).to(matrix.dtype)

    def pruned(self, site: WeightSite, sparsity: float, stats: Stats, seed: int) -> Tensor:
        """The site's matrix at that sparsity. `stats` has what is needed."""
        return _pruned(site, self._choose(site, sparsity, stats, seed))

    def _choose(self, site: WeightSite, sparsity: float, stats: Stats, seed: int) -> Chosen:
        matrix, project, criterion = self.weighed(site.matrix, stats), project_of(self.format), criteria.create(self.criterion)
        if (self.compare or criterion.compares) == "output":
            project = within_outputs(project)
        chosen = criterion.choose(matrix, project, sparsity, stats, site_seed(seed, site.name), self._held(site))
        if self.refinement is not None:
            return Chosen(refinements.create(self.refinement).refine(matrix, chosen.keep, project, stats))
        if self.rows == "equal" or chosen.weight is None:
            return chosen
        return Chosen(chosen.keep, (chosen.weight / _counts(stats).to(matrix.device)).to(matrix.dtype))

    def _cut(self, site: WeightSite, sparsity: float, stats: Stats, context: Context) -> Cut | Refused:
        if reason := unusable(stats, self.needs):
            return reason
        matrix, chosen = site.matrix, self._choose(site, sparsity, stats, context.seed)
        pruned = _pruned(site, chosen)
        if torch.equal(pruned, matrix):
            return Refused(f"already zero wherever {self.pattern} at sparsity {sparsity:.2f} would prune")
        if self._tied(site, stats, context.seed):
            which = "weights" if matrix.all() else "weights but zeros"
            return Refused(f"{self.criterion} finds all its {which} worth the same, so that their places alone would decide")
        weight = in_scratch(site.from_matrix(pruned), context.scratch)
        note = self._on_zeros(matrix, pruned) + (singular(int(stats["tokens"]), site.cols) if "tokens" in stats else "")
        return Cut(self.pattern, 1 - int(pruned.count_nonzero()) / pruned.numel(), self._by, weight, note)

    def _held(self, site: WeightSite) -> Tensor | None:
        """The zeros that a criterion must not fill, bool[rows, cols]; None where there are none."""
        if not (self.keep_zeros and criteria.create(self.criterion).updates):
            return None
        zeros = site.matrix == 0
        return zeros if zeros.any() else None

    def _tied(self, site: WeightSite, stats: Stats, seed: int) -> bool:
        """Whether scores say nothing of what is not zero yet, as of weights that are a, -a or 0.

        They are made again only where all magnitudes but zero are the same, without which they differ.
        """
        magnitude = site.matrix.abs()
        largest = magnitude.max()
        if not ((magnitude == largest) | (magnitude == 0)).all():
            return False
        scores = self.unit_scores(site, stats, seed)[self.format.unit_scores((magnitude != 0).to(magnitude)) != 0]
        return len(scores) > 1 and bool(scores.min() == scores.max())

    def _on_zeros(self, before: Tensor, after: Tensor) -> str:
        """What became of the zeros that were there, where the criterion could have filled them."""
        zeros = before == 0
        if not criteria.create(self.criterion).updates or not zeros.any():
            return ""
        filled = int((zeros & (after != 0)).count_nonzero())
        return f"; {filled} zeros of before have values" if filled else f"; the {float(zeros.double().mean()):.1%} of before stay"


class _Scores:
    """What the units of every site are worth in the model as it came, measured once an allocation asks."""

    def __init__(self, step: Prune, graph: Graph, sites: Sequence[WeightSite], context: Context) -> None:
        self._step, self._graph, self._sites, self._context = step, graph, sites, context
        self._found: dict[str, Tensor] = {}

    def of(self, name: str) -> Tensor:
        needs = self._step.needs
        if not needs:
            site = next(site for site in self._sites if site.name == name)
            return self._step.unit_scores(site, {}, self._context.seed)
        if not self._found:
            for site, stats in calibrated(self._graph, self._sites, needs, self._context):
                if unusable(stats, needs):
                    units = site.rows * site.cols // self._step.format.unit_size
                    self._found[site.name] = torch.full((units,), torch.inf, device=site.matrix.device)  # it stays whole
                else:
                    self._found[site.name] = self._step.unit_scores(site, stats, self._context.seed)
        return self._found[name]


def site_seed(seed: int, name: str) -> int:
    """A seed of its own for each site, from its name: neither the host nor the order of sites matters."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")


def _at_share(time: Callable[[float], float], units: int, kept: int) -> float:
    return time(kept / units)


def _counts(stats: Stats) -> Tensor:
    """float32[rows, 1]: by what a row is multiplied for its squared error to count as it should; 1 in the mean of squares."""
    effects = stats["effects"]
    mean = effects.mean()
    return (effects / mean).clamp(min=_LEAST_EFFECT).sqrt().float()[:, None] if mean > 0 else torch.ones(len(effects), 1)


def _pruned(site: WeightSite, chosen: Chosen) -> Tensor:
    """The site's matrix as it will be, laid out as it is, so that the host stores it without a copy."""
    matrix = site.matrix if chosen.weight is None else chosen.weight
    return torch.where(chosen.keep, matrix, matrix.new_zeros(()), out=torch.empty_like(site.matrix))
