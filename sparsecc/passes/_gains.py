"""What a model loses where its attention leaves out blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsecc import allocations
from sparsecc.calibration.outputs import Outputs, spread
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention
from sparsecc.registry import require

if TYPE_CHECKING:
    from sparsecc.attention.base import BlockMap
    from sparsecc.attention.ladder import Ladder
    from sparsecc.attention.rounding import Precision

UNIFORM = "uniform"


def require_allocation(name: str) -> None:
    """Raises RecipeError for one that does not exist, or that divides by what a weight has and a head lacks."""
    require("allocation", "allocations", name)
    if name != UNIFORM and not allocations.create(name).needs_loss:
        raise RecipeError(f"allocation: {name} divides by weights, which attention has none of; take uniform or sensitivity")


class Gains:
    """What a model's relative squared error is of that of one attention, on a few samples."""

    def __init__(self, graph: Graph, samples: Sequence[Any]) -> None:
        from sparsecc.calibration.sensitivity import SAMPLES  # which imports torch

        self._graph, self._outputs = graph, Outputs(graph, spread(samples, SAMPLES))

    def of(self, site: Attention, ladder: Ladder) -> float:
        """With only this one sparse, at the density at which it is off by about PROBE: little enough for errors to add up, and far above
        those of rounding."""
        from sparsecc.attention.sharing import HIGHEST_GAIN
        from sparsecc.calibration.sensitivity import PROBE

        probe = ladder.probe(PROBE)
        if probe is None:
            return 0.0  # nothing that it leaves out is lost
        found, error = probe
        return min(self._outputs.error(with_maps(self._graph, {site.name: found})) / error, HIGHEST_GAIN)


def with_maps(graph: Graph, maps: Mapping[str, BlockMap], precision: Precision = "float32") -> Graph:
    """A copy in which these sites compute the kept blocks alone."""
    from sparsecc.ops.block_attention.torch import BlockAttention

    copy = graph.copy()
    for site in graph.sites(Attention):
        if site.name in maps:
            copy.replace(site, BlockAttention(maps[site.name], site.scale, site.kv_heads != site.heads, precision))
    return copy
