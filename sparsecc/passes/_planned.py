"""Block maps out of a plan, held against the model that they are taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention
from sparsecc.passes._reordering import untouchable

if TYPE_CHECKING:
    from sparsecc.attention.plan import Plan


def maps_in(path: str, step: float | None, graph: Graph) -> dict[str, BlockMap]:
    """By site, of a plan file, at a step; None: of a plan that has the same in all. A compiled model has one map for each. Raises
    RecipeError for a plan of another model."""
    from sparsecc.attention.plan import Plan

    plan = Plan.load(path)
    _require_made_for(plan, graph, path)
    if step is not None:
        return plan.at(step)
    try:
        return plan.maps
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}; plan_step: 0.5 takes those in the middle of the steps") from None


def fitting(site: Attention, found: BlockMap | None, grid: Grid | None, path: str) -> BlockMap | Refused:
    """The map, if this attention can have one. grid: what the recipe says. Raises RecipeError for a map that is for another attention."""
    reason = untouchable(site, found is None or found.orders is not None)
    if reason is not None:
        return reason
    if found is None:
        return Refused("the plan leaves it dense")
    if found.heads != site.heads:
        raise RecipeError(f"{path}: attention '{site.name}' has {site.heads} heads, the plan {found.heads}")
    if site.tokens not in (None, found.grid.tokens):
        raise RecipeError(f"{path}: attention '{site.name}' has {site.tokens} tokens, the plan is for {found.grid.tokens}")
    if found.causal != site.causal:
        one, other = ("is", "is not") if site.causal else ("is not", "is")
        raise RecipeError(f"{path}: attention '{site.name}' {one} causal, the plan's {other}")
    if grid is not None and found.grid != grid:
        raise RecipeError(f"{path}: the plan is for a grid of {found.grid}, the recipe says {grid}")
    return found


def fingerprint_of(graph: Graph) -> str:
    """`attention.plan.fingerprint` of a graph."""
    from sparsecc.attention.plan import fingerprint

    return fingerprint((site.name, site.heads, site.head_dim) for site in graph.sites(Attention))


def _require_made_for(plan: Plan, graph: Graph, path: str) -> None:
    missing = [name for name in plan.sites if name not in {site.name for site in graph.sites(Attention)}]
    if missing:
        raise RecipeError(f"{path}: made for another model, which had an attention '{missing[0]}'")
    if plan.model != fingerprint_of(graph):
        raise RecipeError(f"{path}: made for another model: its attention has other names, heads or sizes; calibrate again")
