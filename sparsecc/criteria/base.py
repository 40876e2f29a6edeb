"""What a criterion is: it scores weights; a pattern turns the scores into a mask. It knows no graph."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# torch gives `split` no types.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from sparsecc.errors import Refused

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.patterns.base import Pattern

Stats = Mapping[str, "Tensor"]
"""What calibration measured at a site, by the names in `Criterion.needs`: see STATISTICS."""

STATISTICS = {  # of the inputs X [tokens, cols] of a site's matrix, in the order of its columns
    "inputs": "X itself, float32",
    "norms": "the root of Σ x² over tokens, float64[cols]",
    "hessian": "XᵀX / tokens, float64[cols, cols]",
    "means": "float64[cols]",
    "variances": "float64[cols]",
    "tokens": "how many there are, int64[]",
    "gradients": "of the model's outputs by the matrix, in random directions, float32[samples, rows, cols]: see calibration/gradients.py",
    "effects": "what a change of each output costs the model: squared gradients, summed over the row, float64[rows]",
}


OF_GRADIENTS = frozenset({"gradients", "effects"})
UNREACHED, ALL_ZERO = "no calibration input reaches it", "its calibration inputs are all zero"


def unusable(stats: Stats, needs: Sequence[str]) -> Refused | None:
    """Why nothing can be learnt from what calibration has measured at a site."""
    if needs and not stats:
        return Refused(UNREACHED)
    if not all(found.isfinite().all() for found in stats.values()):
        return Refused("its calibration inputs hold NaN or infinity")
    if not all(stats[name].any() for name in ("inputs", "norms", "hessian") if name in stats):
        return Refused(ALL_ZERO)
    return None if "gradients" not in stats or stats["gradients"].any() else Refused("no output moves with it on the calibration inputs")


def singular(tokens: int, cols: int) -> str:
    """For reports: a word on a Hessian [cols, cols] of fewer tokens, "" for one of enough."""
    return "" if tokens >= cols else f"; {tokens} tokens for {cols} inputs, so that its Hessian is singular and dampened"


@dataclass(frozen=True)
class Project:
    """(score [rows, cols], sparsity) → keep, as `Pattern.project`, on a whole matrix or on parts of it.

    rows, cols: of the smallest part that has a mask of its own.  units: the weights in what is kept or dropped whole.
    fixed: the one sparsity that the pattern has, None when any can be asked for.
    """

    project: Callable[[Tensor, float], Tensor]
    rows: int = 1
    cols: int = 1
    units: int = 1
    fixed: float | None = None

    def __call__(self, score: Tensor, sparsity: float) -> Tensor:
        return self.project(score, sparsity)

    @property
    def unit(self) -> tuple[int, int]:
        """Rows and columns of what is kept or dropped whole."""
        return (self.rows, self.cols) if self.units > 1 else (1, 1)

    def sums(self, values: Tensor) -> Tensor:
        """float[rows/r, cols/c]: summed over each unit of r×c."""
        r, c = self.unit
        rows, cols = values.shape
        return values.contiguous().reshape(rows // r, r, cols // c, c).sum(dim=(1, 3))

    def spread(self, units: Tensor) -> Tensor:
        """[rows, cols]: to each weight what its unit has."""
        r, c = self.unit
        return units.repeat_interleave(r, dim=0).repeat_interleave(c, dim=1)


def project_of(pattern: Pattern) -> Project:
    """What a criterion is told about a pattern."""
    return Project(pattern.project, *pattern.part, pattern.unit_size, pattern.fixed_sparsity)


def within_outputs(project: Project) -> Project:
    """The same share of zeros in each output (row of units), whose weights are compared with each other alone."""
    if project.fixed is not None:
        return project

    def each(score: Tensor, sparsity: float) -> Tensor:
        quota, keep = Quota(project, sparsity), score.bool()
        for rows, kept in zip(score.split(project.rows), keep.split(project.rows), strict=True):
            kept.copy_(quota.keep(rows))
        return keep

    return replace(project, project=each)


class Quota:
    """Shares one sparsity among the parts of a matrix, such that the count over all of them is exact in the end."""

    def __init__(self, project: Project, sparsity: float) -> None:
        self._project, self._sparsity = project, sparsity
        self._seen = self._dropped = 0

    def keep(self, score: Tensor, held: Tensor | None = None) -> Tensor:
        """The mask of the next part: whole groups or blocks of the matrix. held: as for `project_without`."""
        if self._project.fixed is not None:
            return project_without(self._project, score, self._project.fixed, held)
        units = score.numel() // self._project.units
        self._seen += units
        drop = round(self._sparsity * self._seen) - self._dropped
        self._dropped += drop
        return project_without(self._project, score, drop / units, held)


def project_without(project: Project, score: Tensor, sparsity: float, held: Tensor | None) -> Tensor:
    """keep, of weights that are not held: those go first, and are never kept, so that there may be more zeros than asked for."""
    return project(score, sparsity) if held is None else project(score.masked_fill(held, 0), sparsity) & ~held


FAINT = 1e-12  # of what a weight would be worth at the least input: its worth at one that is always zero, where magnitude then decides


@dataclass(frozen=True)
class Chosen:
    """keep: bool[rows, cols].  weight: the matrix with its kept weights updated, None when they stay as they were."""

    keep: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Criterion(ABC):
    """One member of the family; fields are its options. Pure: the same weight, stats and seed give the same scores."""

    needs: ClassVar[tuple[str, ...]] = ()  # the statistics that `score` or `choose` reads
    updates: ClassVar[bool] = False  # whether `choose` gives the weights that stay new values
    compares: ClassVar[str] = "layer"  # the weights among which those go that score least, "layer" or "output", where `prune` is not told
    measured_as: ClassVar[str | None] = None  # the criterion that stands in where a division of sparsity prunes each layer many times
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # options that the laws try

    @abstractmethod
    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        """float[rows, cols], higher is more worth keeping. `seed` differs from site to site."""

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int, held: Tensor | None = None) -> Chosen:
        """The mask for one site. Methods that choose and update weights in turns, as SparseGPT does, override this and
        call `project` on parts of the matrix.

        held: bool[rows, cols], weights that are zero and stay so; of use where `updates`."""
        return Chosen(project(self.score(weight, stats, seed), sparsity))
