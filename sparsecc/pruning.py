"""How weights are removed: by what they are worth, in which pattern, and how much of each layer. The pass `prune`, training with masks,
the measuring of sensitivities and the clock share it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from sparsecc import allocations, criteria, patterns, refinements, registry
from sparsecc.allocations.base import Limit, Share, unknown
from sparsecc.criteria.base import Chosen, project_of, singular, unusable, within_outputs
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Targets
from sparsecc.graph.select import never_trained, untouchable
from sparsecc.graph.sites import WeightSite

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.criteria.base import Stats
    from sparsecc.patterns.base import Pattern

ROWS = ("equal", "fisher")
COMPARISONS = ("layer", "output")
_LEAST_EFFECT = 1e-3  # of the mean, which a row counts at least


@dataclass(frozen=True)
class Cut:
    """What is done at a site. sparsity: of the new weight.  weight: the new one.  note: on zeros that were there, on what was
    calibrated."""

    pattern: str
    sparsity: float
    criterion: str
    weight: Tensor
    note: str = ""

    def __str__(self) -> str:
        return f"{self.pattern}, {self.sparsity:.1%} zeros, by {self.criterion}{self.note}"


@dataclass(frozen=True)
class Pruning:
    """The fields mean what those of the pass `prune` do. limit: what its `budget` says.

    Raises RecipeError, with the field's name, for values that do not exist or do not go together."""

    criterion: str = "magnitude"
    refinement: str | None = None
    rows: str = "equal"
    compare: str | None = None
    pattern: str = "unstructured"
    sparsity: float | None = None
    allocation: str = "uniform"
    floor: float | None = None
    limit: Limit | None = None
    keep_zeros: bool = True
    min_weights: int = 1024

    def __post_init__(self) -> None:
        registry.require("criterion", "criteria", self.criterion)
        registry.require("allocation", "allocations", self.allocation)
        if self.rows not in ROWS:
            raise RecipeError(f"rows: no {self.rows!r}{registry.did_you_mean(self.rows, list(ROWS))}")
        self._check_compare()
        self._check_refinement()
        self._check_amount()
        if self.min_weights < 0:
            raise RecipeError(f"min_weights: {self.min_weights} is negative")

    def _check_compare(self) -> None:
        if self.compare is None:
            return
        if self.compare not in COMPARISONS:
            raise RecipeError(f"compare: no {self.compare!r}{registry.did_you_mean(self.compare, list(COMPARISONS))}")
        if self.masks.fixed_sparsity is not None:
            raise RecipeError(f"compare: {self.pattern} compares the weights of a group; leave it out")

    def _check_refinement(self) -> None:
        if self.refinement is None:
            return
        registry.require("refinement", "refinements", self.refinement)
        if criteria.create(self.criterion).updates:
            raise RecipeError(
                f"refinement: {self.criterion} gives the weights that stay new values, for its own mask; "
                f"{self.refinement} can follow a criterion that leaves them as they are, such as wanda"
            )

    def _check_amount(self) -> None:
        fixed = self.masks.fixed_sparsity
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise RecipeError(f"sparsity: {self.sparsity} is not in [0, 1); it is the fraction of zeros")
        if fixed is not None and self.sparsity is not None and abs(self.sparsity - fixed) > 1e-6:
            raise RecipeError(f"sparsity: pattern {self.pattern} has {fixed:.4g}, not {self.sparsity}; leave one of them out")
        if fixed is not None and self.allocation != "uniform":
            raise RecipeError(f"allocation: every layer has the same sparsity under {self.pattern}, only 'uniform' can be asked for")
        if self.limit is not None:
            self._check_limit()
        elif self.floor is not None and not 0 <= self.floor <= 1 - self.share + 1e-9:  # 1 - 0.9 is less than 0.1
            raise RecipeError(f"floor: {self.floor} is not in [0, {1 - self.share:.4g}], what sparsity {self.share:.4g} keeps")

    def _check_limit(self) -> None:
        if self.masks.fixed_sparsity is not None:
            raise RecipeError(f"budget: {self.pattern} has one size; leave it out, or take another pattern")
        if self.sparsity is not None:
            raise RecipeError("budget: is what decides the sparsity; leave one of them out")
        if self.floor is not None and not 0 <= self.floor < 1:
            raise RecipeError(f"floor: {self.floor} is not in [0, 1)")

    @property
    def masks(self) -> Pattern:
        return patterns.parse(self.pattern)

    @property
    def share(self) -> float:
        """The sparsity over all layers pruned, where no budget decides it."""
        fixed = self.masks.fixed_sparsity
        if fixed is not None:
            return fixed
        return 0.5 if self.sparsity is None else self.sparsity

    @property
    def by(self) -> str:
        """Criterion and refinement in words."""
        return self.criterion if self.refinement is None else f"{self.criterion}, then {self.refinement}"

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that criterion, refinement, the weighing of rows and the report read."""
        needs = criteria.create(self.criterion).needs
        if self.refinement is not None:
            needs = (*needs, *refinements.create(self.refinement).needs)
        weighed = ("effects",) if self.rows == "fisher" else ()
        counted = ("tokens",) if "hessian" in needs else ()
        return tuple(dict.fromkeys((*needs, *weighed, *counted)))

    def refuse(self, site: WeightSite, targets: Targets = ALL) -> Refused | None:
        """Why a site stays as it is before anything is measured, None when it does not. targets: those that meant it."""
        if site.rows * site.cols < self.min_weights:
            return Refused(f"{site.rows * site.cols} weights are fewer than min_weights {self.min_weights}")
        return untouchable(site) or never_trained(site, targets) or self.masks.check(site.rows, site.cols)

    def allocate(
        self,
        sites: Sequence[WeightSite],
        unit_scores: Callable[[WeightSite], Tensor],
        loss: Callable[[str, float], float] | None = None,
        costs: Mapping[str, Callable[[int], float]] | None = None,
    ) -> dict[str, float]:
        """The sparsity of each site by name.

        unit_scores: as the method of that name gives them; called if the allocation asks.  loss: of a site by name at a sparsity.
        costs: of a site by name, with so many units kept.
        """
        if not sites:
            return {}
        layers = [
            Share(
                name=site.name,
                shape=site.shape,
                units=self.units(site),
                unit_scores=partial(unit_scores, site),
                loss=partial(loss, site.name) if loss else unknown,
                cost=costs[site.name] if costs else unknown,
            )
            for site in sites
        ]
        allocation = allocations.create(self.allocation)
        if self.limit is not None:
            shares = allocation.within(layers, self.limit, self.floor)
        else:
            shares = allocation.allocate(layers, self.share, (1 - self.share) / 4 if self.floor is None else self.floor)
        return {site.name: share for site, share in zip(sites, shares, strict=True)}

    def units(self, site: WeightSite) -> int:
        """How many weights or blocks of a site are kept or dropped whole."""
        return site.rows * site.cols // self.masks.unit_size

    def unit_scores(self, site: WeightSite, stats: Stats, seed: int) -> Tensor:
        """float[units]: what each is worth."""
        score = criteria.create(self.criterion).score(self.weighed(site.matrix, stats), stats, site_seed(seed, site.name))
        return self.masks.unit_scores(score)

    def weighed(self, matrix: Tensor, stats: Stats) -> Tensor:
        """The matrix with each row as large as it counts."""
        return matrix if self.rows == "equal" else (matrix * _counts(stats).to(matrix.device)).to(matrix.dtype)

    def pruned(self, site: WeightSite, sparsity: float, stats: Stats, seed: int) -> Tensor:
        """The site's matrix at that sparsity, laid out as it is, so that the host stores it without a copy. `stats` has what is needed."""
        chosen = self._choose(site, sparsity, stats, seed)
        matrix = site.matrix if chosen.weight is None else chosen.weight
        return torch.where(chosen.keep, matrix, matrix.new_zeros(()), out=torch.empty_like(site.matrix))

    def cut(self, site: WeightSite, sparsity: float, stats: Stats, seed: int) -> Cut | Refused:
        """The site's weight at that sparsity, or why there is no sense in it: statistics that tell nothing, zeros that are there already,
        weights that are all worth the same."""
        if reason := unusable(stats, self.needs):
            return reason
        matrix, pruned = site.matrix, self.pruned(site, sparsity, stats, seed)
        if torch.equal(pruned, matrix):
            return Refused(f"already zero wherever {self.pattern} at sparsity {sparsity:.2f} would prune")
        if self._tied(site, stats, seed):
            which = "weights" if matrix.all() else "weights but zeros"
            return Refused(f"{self.criterion} finds all its {which} worth the same, so that their places alone would decide")
        note = self._on_zeros(matrix, pruned) + (singular(int(stats["tokens"]), site.cols) if "tokens" in stats else "")
        return Cut(self.pattern, 1 - int(pruned.count_nonzero()) / pruned.numel(), self.by, site.from_matrix(pruned), note)

    def _choose(self, site: WeightSite, sparsity: float, stats: Stats, seed: int) -> Chosen:
        matrix, project, criterion = self.weighed(site.matrix, stats), project_of(self.masks), criteria.create(self.criterion)
        if (self.compare or criterion.compares) == "output":
            project = within_outputs(project)
        chosen = criterion.choose(matrix, project, sparsity, stats, site_seed(seed, site.name), self._held(site))
        if self.refinement is not None:
            return Chosen(refinements.create(self.refinement).refine(matrix, chosen.keep, project, stats))
        if self.rows == "equal" or chosen.weight is None:
            return chosen
        return Chosen(chosen.keep, (chosen.weight / _counts(stats).to(matrix.device)).to(matrix.dtype))

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
        scores = self.unit_scores(site, stats, seed)[self.masks.unit_scores((magnitude != 0).to(magnitude)) != 0]
        return len(scores) > 1 and bool(scores.min() == scores.max())

    def _on_zeros(self, before: Tensor, after: Tensor) -> str:
        """What became of the zeros that were there, where the criterion could have filled them."""
        zeros = before == 0
        if not criteria.create(self.criterion).updates or not zeros.any():
            return ""
        filled = int((zeros & (after != 0)).count_nonzero())
        return f"; {filled} zeros of before have values" if filled else f"; the {float(zeros.double().mean()):.1%} of before stay"


def site_seed(seed: int, name: str) -> int:
    """A seed of its own for each site, from its name: neither the host nor the order of sites matters."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")


def _counts(stats: Stats) -> Tensor:
    """float32[rows, 1]: by what a row is multiplied for its squared error to count as it should; 1 in the mean of squares."""
    effects = stats["effects"]
    mean = effects.mean()
    return (effects / mean).clamp(min=_LEAST_EFFECT).sqrt().float()[:, None] if mean > 0 else torch.ones(len(effects), 1)
