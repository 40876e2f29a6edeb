"""How the blocks of a budget are shared out among the heads of all attention layers, by what each loses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsecc import allocations
from sparsecc.allocations.base import Share
from sparsecc.calibration.outputs import Outputs, spread
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention
from sparsecc.registry import require

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.attention.base import BlockMap
    from sparsecc.attention.ladder import Ladder
    from sparsecc.attention.rounding import Precision

UNIFORM = "uniform"
_HIGHEST_GAIN = 1e9  # where the model overflows, a gain is infinite


def require_allocation(name: str) -> None:
    """Raises RecipeError for one that does not exist, or that divides by what a weight has and a head lacks."""
    require("allocation", "allocations", name)
    if name != UNIFORM and not allocations.create(name).needs_loss:
        raise RecipeError(f"allocation: {name} divides by weights, which attention has none of; take uniform or sensitivity")


@dataclass(frozen=True)
class Division:
    """ladders: of each site, by name.  gains: for each, the model's relative squared error for a relative squared error of the site's
    output of 1; unused where every head gets the same."""

    allocation: str
    ladders: Mapping[str, Ladder]
    gains: Mapping[str, float]

    @property
    def least(self) -> float:
        """The density at which each head keeps text and the diagonal alone."""
        return sum(ladder.needed * ladder.heads for ladder in self.ladders.values()) / self._blocks

    @property
    def _blocks(self) -> int:
        return sum(ladder.full * ladder.heads for ladder in self.ladders.values())

    def kept(self, density: float) -> dict[str, list[int]]:
        """How many blocks each head keeps, by site: round(density · blocks of all sites) together, and at least what every head has to."""
        heads = [(name, ladder, head) for name, ladder in self.ladders.items() for head in range(ladder.heads)]
        free = [(name, ladder, head) for name, ladder, head in heads if ladder.free]
        gone = self._blocks - max(round(density * self._blocks), sum(ladder.needed for _, ladder, _ in heads))
        units = [self._share(name, ladder, head) for name, ladder, head in free]
        sparsities = allocations.create(self.allocation).allocate(units, gone / sum(unit.units for unit in units), 0.0) if units else []
        found = {name: [ladder.full] * ladder.heads for name, ladder in self.ladders.items()}
        for (name, ladder, head), sparsity in zip(free, sparsities, strict=True):
            found[name][head] -= round(sparsity * ladder.free)
        return found

    def steps(self, density: float) -> dict[str, list[int]]:
        """The steps of each site's ladder that come nearest to a density of the whole."""
        if self.allocation == UNIFORM:
            return {name: ladder.at(density) for name, ladder in self.ladders.items()}
        return {name: self.ladders[name].nearest(kept) for name, kept in self.kept(density).items()}

    def _share(self, name: str, ladder: Ladder, head: int) -> Share:
        """A head, whose units are the blocks that may go."""
        return Share(
            name=f"{name} {head}",
            shape=(),
            units=ladder.free,
            unit_scores=_no_scores,
            loss=lambda sparsity: self.gains[name] * ladder.loss(head, sparsity),
            corners=(ladder.kept[:, head] - ladder.needed).tolist(),
        )


def divided(allocation: str, graph: Graph, sites: Sequence[Attention], ladders: Mapping[str, Ladder], samples: Sequence[Any]) -> Division:
    """samples: on which gains are measured, where the allocation asks for losses."""
    from sparsecc.calibration.sensitivity import SAMPLES  # which imports torch

    if allocation == UNIFORM:
        return Division(allocation, ladders, {})
    outputs = Outputs(graph, spread(samples, SAMPLES))
    return Division(allocation, ladders, {site.name: _gain(graph, outputs, site, ladders[site.name]) for site in sites})


def _gain(graph: Graph, outputs: Outputs, site: Attention, ladder: Ladder) -> float:
    """What the model's relative squared error is of that of one attention: with only this one sparse, at the density at which it is off by
    about PROBE: little enough for errors to add up, and far above those of rounding."""
    from sparsecc.calibration.sensitivity import PROBE

    errors = {step: error for step in range(len(ladder.densities)) if (error := ladder.site_error([step] * ladder.heads)) > 0}
    if not errors:
        return 0.0  # nothing that it leaves out is lost
    nearest = min(errors, key=lambda step: abs(math.log(errors[step] / PROBE**2)))
    probed = with_maps(graph, {site.name: ladder.choice([nearest] * ladder.heads).map})
    return min(outputs.error(probed) / errors[nearest], _HIGHEST_GAIN)


def with_maps(graph: Graph, maps: Mapping[str, BlockMap], precision: Precision = "float32") -> Graph:
    """A copy in which these sites compute the kept blocks alone."""
    from sparsecc.ops.block_attention.torch import BlockAttention

    copy = graph.copy()
    for site in graph.sites(Attention):
        if site.name in maps:
            copy.replace(site, BlockAttention(maps[site.name], site.scale, site.kv_heads != site.heads, precision))
    return copy


def _no_scores() -> Tensor:
    raise AssertionError("heads have no scores; an allocation that reads some is refused")
