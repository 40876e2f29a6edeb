"""Put structured matrices in the place of dense ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsecc import registry, structures
from sparsecc.calibration.context import Context
from sparsecc.calibration.statistics import in_groups, relative_error, work_in
from sparsecc.criteria.base import singular, unusable
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import never_trained, require_valid, select, untouchable
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.ranks.work import each

if TYPE_CHECKING:
    from sparsecc.criteria.base import Stats
    from sparsecc.structures.base import Structured


@dataclass(frozen=True)
class Substitution:
    """What Substitute does at a site. error: ‖(W − W')X‖ / ‖WX‖ over the calibration inputs X, without them ‖W − W'‖ / ‖W‖."""

    weight: Structured
    error: float
    error_of: str  # output, weight
    note: str = ""  # on what it was calibrated

    @property
    def params(self) -> float:
        """The share of the parameters that stays."""
        rows, cols = self.weight.rows, self.weight.cols
        return self.weight.structure.params(rows, cols) / (rows * cols)

    @property
    def products(self) -> float:
        """The share of the multiplications that stays."""
        rows, cols = self.weight.rows, self.weight.cols
        return self.weight.structure.products(rows, cols) / (rows * cols)

    def __str__(self) -> str:
        work = f", {self.products:.2f} of the multiplications" if self.products != self.params else ""
        share = f"{self.params:.2{'g' if work else 'f'}} of the parameters{work}"
        return f"{self.weight.structure.key}, {share}, {self.error_of} error {self.error:.3g}{self.note}"


@dataclass(frozen=True)
class Substitute(Pass[Linear, Substitution]):
    """Replace the weight of a linear layer by the nearest product of small factors; refuse where that is too far away.

    linear(x, W, b)  ->  structured_linear(x, factors, b)

    With calibration inputs X the error is that of the layer's output, ‖(W − W')X‖ / ‖WX‖, for the inputs that the layers replaced before
    give. Without them it is that of the weights, ‖W − W'‖ / ‖W‖.

    Left as they are, with the reason in the report: layers whose sizes allow no such structure, errors above `max_error`, and weights that
    are all zero, not finite, shared, packed or substituted already.

    structure: a member of `structures`, in the shape that has the least error; such a shape, as reports name it (`monarch:4x8:19`,
    `kronecker:32x48:5`); or `auto` for the least error among armor, low_rank and monarch in all their shapes.
    params: the share of its parameters that each layer keeps at most, in (0, 1).
    max_error: the largest relative error of a layer; beyond it the layer stays as it is. Any error is allowed when not given.
    """

    examples = (Example({"structure": "monarch", "params": 0.3, "max_error": 0.9}),)

    targets: Targets = ALL
    ignore: Targets = ()
    structure: str = "auto"
    params: float = 0.5
    max_error: float | None = None

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        known = [*registry.members("structures"), "auto"]
        name, given, _ = self.structure.partition(":")
        if name not in known:
            raise RecipeError(f"structure: no {name!r}{registry.did_you_mean(name, known)}")
        if given:
            structures.from_key(self.structure)
        if not 0 < self.params < 1:
            raise RecipeError(f"params: {self.params} is not in (0, 1); it is the share of the parameters that stays")
        if self.max_error is not None and self.max_error <= 0:
            raise RecipeError(f"max_error: {self.max_error} is not positive; leave it out to allow any error")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[Linear, Substitution]]:
        sites = select(graph, Linear, self.targets, self.ignore)
        refused = {site.name: reason for site in sites if (reason := self._refuse(site))}
        taken = [site for site in sites if site.name not in refused]
        found: dict[str, Substitution | Refused] = {}
        working, unmeasured = graph.copy(), [(site, {}) for site in taken]
        groups = in_groups(working, taken, ("hessian", "tokens"), context) if context.calibration and taken else [unmeasured]
        for group in groups:
            for (site, stats), nearest in zip(group, each("substituting", group, work_in, self._nearest), strict=True):
                found[site.name] = nearest
                if isinstance(nearest, Substitution) and stats:
                    working.set_weight(site, nearest.weight.dense(site.name))
                context.tell("substituting", len(found), len(taken), site.name)
        yield from (Match(site, refused.get(site.name) or found[site.name]) for site in sites)

    def rewrite(self, graph: Graph, site: Linear, substitution: Substitution) -> None:
        from sparsecc.ops.structured_linear.torch import StructuredLinear

        graph.replace(site, StructuredLinear(substitution.weight, site.bias))

    def _refuse(self, site: Linear) -> Refused | None:
        reason = untouchable(site) or never_trained(site, self.targets)
        if reason is not None:
            return reason
        if not structures.sized(self.structure, site.rows, site.cols, self.params):
            name = "structure" if self.structure == "auto" else self.structure
            return Refused(f"no {name} of {site.rows}×{site.cols} keeps at most {self.params:.4g} of the parameters")
        return None if site.weight.any() else Refused("all its weights are zero; pack stores those in fewer bytes")

    def _nearest(self, known: tuple[WeightSite, Stats]) -> Substitution | Refused:
        site, stats = known
        if reason := unusable(stats, ()):
            return reason
        covariance, note = stats.get("hessian"), singular(int(stats["tokens"]), site.cols) if stats else ""
        matrix, best = site.matrix, None
        for structure in structures.sized(self.structure, site.rows, site.cols, self.params):
            weight = structure.project(matrix, covariance)
            error = relative_error(matrix, weight.dense(site.name), covariance)
            if best is None or error < best.error:
                best = Substitution(weight, error, "weight" if covariance is None else "output", note if structure.whitens else "")
        assert best is not None
        if self.max_error is not None and best.error > self.max_error:
            return Refused(f"{best}, more than max_error {self.max_error:.4g}")
        return best
