"""Plans of block maps: made for a model, looked at and exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from sparsecc.attention import export as exports
from sparsecc.attention import orders
from sparsecc.attention.plan import Plan, Planned
from sparsecc.errors import RecipeError, UserError

if TYPE_CHECKING:
    from sparsecc.calibration.context import Progress

Path = str | PathLike[str]


def plan(
    model: Any,
    example_inputs: Any = None,
    *,
    recipe: Any,
    calibration: Iterable[Any] | Path | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """The block maps that a recipe's `reorder_tokens` chooses for a model, for all parts of the denoising steps that it names: to be saved,
    and to be used by the recipes that compile the model, `plan: FILE`, once for each of `Plan.parts`.

    recipe: as for `compile`; passes before `reorder_tokens` are run, those after it are not.  Everything else as for `compile`.

    Raises UserError and its children for what the caller can mend.
    """
    from sparsecc.api import sources
    from sparsecc.calibration.context import Context
    from sparsecc.calibration.samples import samples_of
    from sparsecc.passes import pipeline
    from sparsecc.passes.reorder_tokens import ReorderTokens
    from sparsecc.recipe import Recipe

    given = Recipe.load(recipe)
    steps = [(place, step) for place, step in enumerate(given.passes) if isinstance(step, ReorderTokens)]
    if len(steps) != 1:
        raise RecipeError(f"{given.source}: a plan is made by one reorder_tokens, here are {len(steps)}")
    [(place, step)] = steps
    graph = sources.open_graph(model, example_inputs, input_shapes)
    context = Context(calibration=samples_of(calibration, graph.inputs), progress=progress)
    graph, _ = pipeline.run(graph, replace(given, passes=given.passes[:place]), context)
    with pipeline.placed(graph, given, place, step, context):
        return step.calibrate(graph, context)


def about(path: Path, site: str | None = None) -> dict[str, Any]:
    """What a plan file holds, as JSON has it: per map its attention, steps, sizes, density, and of each head density and order
    (as `orders.names` has it).

    site: of this attention alone. Raises RecipeError for a file that is no plan, UserError for a name that is not in it.
    """
    plan = Plan.load(path)
    if site is not None and site not in plan.sites:
        raise UserError(f"{path}: has no attention '{site}'; it has {_some(plan.sites)}")
    maps = [_row(planned) for planned in plan.planned if site in (None, planned.site)]
    return {"plan": plan.version, "model": plan.model, "maps": maps}


def export(path: Path, form: str, out: Path) -> list[dict[str, Any]]:
    """Write a plan file as `attention.export` describes. For each map its attention, steps, density, and share of blocks computed by who
    follows the file. Raises RecipeError for what cannot be exported."""
    plan = Plan.load(path)
    shares = exports.write(plan, form, out)
    return [_head(planned) | {"exported": share} for planned, share in zip(plan.planned, shares, strict=True)]


def _head(planned: Planned) -> dict[str, Any]:
    return {"name": planned.site, "steps": list(planned.steps), "density": planned.map.density}


def _row(planned: Planned) -> dict[str, Any]:
    found = planned.map
    grid = found.grid
    return _head(planned) | {
        "grid": list(grid.axes),
        "text_tokens": grid.text_tokens,
        "text_first": grid.text_first,
        "tokens": grid.tokens,
        "block": found.block,
        "causal": found.causal,
        "dense_heads": found.dense_heads,
        "heads": [{"density": head.density, "order": head.order} for head in orders.head_rows(found)],
    }


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" if names else "none"
