"""Plan files, looked at and exported."""

from __future__ import annotations

from os import PathLike
from typing import Any

from sparsecc.attention import export as exports
from sparsecc.attention import orders
from sparsecc.attention.plan import Plan, Planned
from sparsecc.errors import UserError

Path = str | PathLike[str]


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
