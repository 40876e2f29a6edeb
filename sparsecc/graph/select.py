"""Which sites somebody means, and why some stay as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import Graph, Targets, matches
from sparsecc.graph.sites import Conv2d, Mlp, Site, WeightSite
from sparsecc.options import shown
from sparsecc.registry import did_you_mean

S = TypeVar("S", bound=Site)


def require_valid(**fields: Targets) -> None:
    """Raises RecipeError, with the field's name, for an empty target and for an invalid regular expression."""
    for field, targets in fields.items():
        for target in targets:
            if not target.removeprefix("re:"):
                raise RecipeError(f"{field}: {target!r} is empty")
            try:
                re.compile(target[3:] if target.startswith("re:") else "")
            except (re.error, OverflowError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else error
                raise RecipeError(f"{field}: {shown(target)} is no regular expression: {reason}") from None


def select(graph: Graph, kind: type[S], targets: Targets, ignore: Targets = ()) -> list[S]:
    """The sites meant by `targets` without those meant by `ignore`, in execution order.

    Raises RecipeError for a target that matches no site, and for a plain name to ignore that is none: both are misspelt.
    A "re:" pattern or a kind may ignore nothing, so that one recipe serves several models.
    """
    return chosen(graph.sites(kind), kind, targets, ignore)


def chosen(sites: Sequence[S], kind: type[S], targets: Targets, ignore: Targets = ()) -> list[S]:
    """`select` among these sites."""
    for target in targets:
        require("targets", target, sites)
    for name in ignore:
        if not name.startswith("re:") and name not in _kinds(kind):
            require("ignore", name, sites)
    return [site for site in sites if matches(site, targets) and not (ignore and matches(site, ignore))]


def around(sites: Sequence[S], targets: Targets, ignore: Targets) -> list[S]:
    """Those of these sites of several layers that are meant: by their own name or kind, or by that of an Mlp's first layer.

    Raises RecipeError for a target that means none of them.
    """

    def meant(site: S, targets: Targets) -> bool:
        return matches(site, targets) or (isinstance(site, Mlp) and matches(site.first, targets))

    for target in targets:
        require("targets", target, [*sites, *(site.first for site in sites if isinstance(site, Mlp))])
    return [site for site in sites if meant(site, targets) and not (ignore and meant(site, ignore))]


def untouchable(site: WeightSite) -> Refused | None:
    """Why the weight of a site cannot be pruned, packed, substituted or quantized, None when it can."""
    if site.form is not None:
        return Refused(f"already {site.form.word} as {site.form.key}")
    if site.shared:
        return Refused("its weight serves other layers too")
    if isinstance(site, Conv2d) and site.groups > 1:
        return Refused(f"grouped convolution ({site.groups} groups) has no sparse operator")
    if not site.weight.is_floating_point():
        return Refused(f"its weight is {str(site.weight.dtype).removeprefix('torch.')}, not floating point")
    if not site.weight.isfinite().all():
        return Refused("its weight holds NaN or infinity")
    return None


def never_trained(site: WeightSite, targets: Targets) -> Refused | None:
    """Why a constant of the model keeps its values, None for trained weights and for a site that `targets` names: a kind names none."""
    named = any(target != site.kind and matches(site, (target,)) for target in targets)
    return Refused("a constant of the model, never trained; name it in targets to change it") if site.constant and not named else None


def require(field: str, target: str, sites: Sequence[Site]) -> None:
    """Raises RecipeError, with the nearest name, for a target that means none of the sites."""
    if not any(matches(site, (target,)) for site in sites):
        raise RecipeError(f"{field}: {target!r} matches no layer{_near(target, [site.name for site in sites])}")


def _near(target: str, names: list[str]) -> str:
    """What the model has instead."""
    if not names:
        return "; the model has none that this pass works on"
    return did_you_mean(target.removeprefix("re:"), names)


def _kinds(kind: type[Site]) -> set[str]:
    return {kind.__name__, *(name for child in kind.__subclasses__() for name in _kinds(child))}
