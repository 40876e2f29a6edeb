"""What may become of one layer, as a value: the rungs of the ladder that a search goes up and down."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sparsecc import patterns, registry
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection

    from sparsecc.api.units import Group

REMOVAL: Mapping[str, Any] = {"criterion": "obs"}
"""Fields of `structured` with which a search removes neurons and heads."""
ROUND_TO = 16  # neurons left are a multiple of it, so that no kernel has a rest: 16 numbers of 32 bits fill the widest registers
_NARROW = "narrow"
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Rung:
    """A number format, and what makes the weight smaller: zeros in a pattern, a product of factors, or fewer rows and columns.

    pattern: as of `prune`, None for no zeros.  sparsity: of it, None where the pattern has but one.  structure: as of `substitute`.
    params: the share of the parameters that the factors have at most.  narrow: the share of the neurons or heads that go from the group of
    layers (`api.units`), all of which have to be at the same share.
    """

    dtype: str = "float32"
    pattern: str | None = None
    sparsity: float | None = None
    structure: str | None = None
    params: float | None = None
    narrow: float | None = None

    def __str__(self) -> str:
        """Its name, which `parse` reads: "dense", "int8", "int8 1x4 50%", "2:4", "low_rank 25%", "int8 narrow 25%"."""
        share = self.level if self.structure is None else self.params
        words = [
            "" if self.dtype == "float32" else self.dtype,
            self.pattern or self.structure or ("" if self.narrow is None else _NARROW),
            "" if share is None else _percent(share),
        ]
        return " ".join(filter(None, words)) or "dense"

    @classmethod
    def parse(cls, name: str) -> Rung:
        """Inverse of `str`. Raises UserError for anything else."""
        words = name.split()
        share = _SHARE.fullmatch(words[-1]) if words else None
        amount = float(share[1]) / 100 if share else None
        *kinds, what = words[: len(words) - bool(share)] or [""]
        if not kinds and share is None and (what == "dense" or what in registry.members("precisions")):
            found = cls() if what == "dense" else cls(what)
        elif what in registry.members("structures"):
            found = cls("".join(kinds) or "float32", structure=what, params=amount)
        elif what == _NARROW:
            found = cls("".join(kinds) or "float32", narrow=amount)
        else:
            found = cls("".join(kinds) or "float32", pattern=what, sparsity=amount)
        if str(found) != name or not _is_one(found):
            raise UserError(f"rung: {name!r} is none; they are called as dense, int8, 2:4, 4x1 70%, int8 1x4 50%, low_rank 25%, narrow 25%")
        return found

    @property
    def level(self) -> float | None:
        """Between two of which others can be interpolated: its sparsity, or the share of what goes."""
        return self.sparsity if self.narrow is None else self.narrow

    @property
    def family(self) -> Rung:
        """The same at no level in particular."""
        return replace(self, sparsity=None) if self.narrow is None else self.at(0.0)

    def at(self, level: float) -> Rung:
        return replace(self, sparsity=level) if self.narrow is None else replace(self, narrow=level)


DENSE = Rung()


def parsed(names: Mapping[str, str]) -> dict[str, Rung]:
    """site → rung, of site → its name. Raises as `Rung.parse`."""
    return {site: Rung.parse(name) for site, name in names.items()}


def _percent(share: float) -> str:
    return f"{round(100 * share, 6):g}%"


def _is_one(rung: Rung) -> bool:
    """Whether a recipe can make it."""
    if rung.dtype not in ("float32", *registry.members("precisions")):
        return False
    if rung.structure is not None:
        return rung.dtype == "float32" and rung.params is not None and 0 < rung.params < 1
    if rung.pattern is None:
        return rung.sparsity is None and (rung.narrow is None or 0 < rung.narrow < 1)
    try:
        fixed = patterns.parse(rung.pattern).fixed_sparsity
    except UserError:
        return False
    return rung.sparsity is None if fixed is not None else rung.sparsity is not None and 0 < rung.sparsity < 1


@functools.cache
def _levels(pattern: str, dtype: str, *percents: int) -> tuple[Rung, ...]:
    return tuple(Rung(dtype, pattern, percent / 100) for percent in percents)


def _narrow(dtypes: Collection[str]) -> tuple[Rung, ...]:
    """At four shares in the numbers that are fastest as a rule, at two in others."""
    best = "int8" if "int8" in dtypes else "float32"
    formats = [dtype for dtype in ("int8", "float32", "bfloat16") if dtype == "float32" or dtype in dtypes]
    return tuple(Rung(dtype, narrow=share) for dtype in formats for share in ((0.125, 0.25, 0.375, 0.5) if dtype == best else (0.25, 0.5)))


def ladder(dtypes: Collection[str]) -> tuple[Rung, ...]:
    """What is tried on a CPU that multiplies these number formats besides float32. Between two sparsities of one pattern, others are
    interpolated."""
    formats = [Rung(dtype) for dtype in ("bfloat16", "int8") if dtype in dtypes]
    blocks = _levels("1x4", "int8", 50, 60, 70, 80) if "int8" in dtypes else ()
    return (
        DENSE,
        *formats,
        *blocks,
        *_narrow(dtypes),
        *_levels("unstructured", "float32", 60, 70, 80, 90, 95),
        *_levels("4x1", "float32", 50, 60, 70, 80),
        Rung(pattern="2:4"),
        Rung(structure="low_rank", params=0.25),
        Rung(structure="low_rank", params=0.5),
        Rung(structure="monarch", params=0.25),
    )


def recipe(
    assignment: Mapping[str, Rung],
    prune: Mapping[str, Any] | None = None,
    substitute: Mapping[str, Any] | None = None,
    quantize: Mapping[str, Any] | None = None,
    repair: Sequence[Mapping[str, Any]] = (),
    structured: Mapping[str, Any] | None = None,
    groups: Mapping[str, Group] | None = None,
) -> dict[str, Any]:
    """The recipe that puts each layer on its rung: layers on one rung are named together, in the order of the assignment.

    prune, substitute, quantize, structured: further fields of these passes.  repair: passes between pruning and what follows it, as
    `recover`.  groups: of layers that become narrower together, by name; in this order they are named.

    Raises UserError where a layer becomes narrower without all of its group.
    """
    pruned = [rung for rung in _rungs(assignment) if rung.pattern is not None]
    passes: list[dict[str, Any]] = []
    for (kind, share), names in _narrowed(assignment, groups or {}).items():
        passes.append({"structured": {"targets": names, **_removed(kind, share), **(structured or {})}})
    for pattern, sparsity in dict.fromkeys((rung.pattern, rung.sparsity) for rung in pruned):
        share = {} if sparsity is None else {"sparsity": sparsity}
        names = [name for name, rung in assignment.items() if (rung.pattern, rung.sparsity) == (pattern, sparsity)]
        passes.append({"prune": {"targets": names, "pattern": pattern, **share, **(prune or {})}})
    passes.extend(dict(step) for step in repair)
    for structure, params in dict.fromkeys((rung.structure, rung.params) for rung in _rungs(assignment) if rung.structure is not None):
        names = [name for name, rung in assignment.items() if (rung.structure, rung.params) == (structure, params)]
        passes.append({"substitute": {"targets": names, "structure": structure, "params": params, **(substitute or {})}})
    for dtype in dict.fromkeys(rung.dtype for rung in _rungs(assignment) if rung.dtype != "float32"):
        names = [name for name, rung in assignment.items() if rung.dtype == dtype]
        passes.append({"quantize": {"targets": names, "dtype": dtype, **(quantize or {})}})
    if pruned:
        passes.append({"pack": {"targets": [name for name, rung in assignment.items() if rung.pattern is not None]}})
    return {"passes": passes}


def everywhere(rung: Rung, **fields: Any) -> dict[str, Any]:
    """The recipe that puts all layers on a rung that can be there.  fields: as of `recipe`."""
    passes = recipe({"": replace(rung, narrow=None)}, **fields)["passes"]
    found = [{name: {k: v for k, v in given.items() if k != "targets"}} for step in passes for name, given in step.items()]
    if rung.narrow is not None:
        both = {**_removed("neurons", rung.narrow), **_removed("heads", rung.narrow)}
        found.insert(0, {"structured": {**both, **(fields.get("structured") or {})}})
    return {"passes": found}


def _narrowed(assignment: Mapping[str, Rung], groups: Mapping[str, Group]) -> dict[tuple[str, float], list[str]]:
    """The groups, by what goes from them and how much of it."""
    found: dict[tuple[str, float], list[str]] = {}
    left = {site: rung.narrow for site, rung in assignment.items() if rung.narrow is not None}
    for name, group in groups.items():
        shares = {left.pop(layer, None) for layer in group.layers}
        if len(shares) > 1:
            raise UserError(f"{name!r}: its layers {', '.join(group.layers)} become narrower by the same share, or not at all")
        if (share := shares.pop()) is not None:
            found.setdefault((group.kind, share), []).append(name)
    if left:
        raise UserError(f"layer {next(iter(left))!r}: belongs to no neurons or heads that can go, so that it does not become narrower")
    return found


def _removed(kind: str, share: float) -> dict[str, Any]:
    return {kind: share, **({"round_to": ROUND_TO} if kind == "neurons" else {})}


def _rungs(assignment: Mapping[str, Rung]) -> Iterable[Rung]:
    return dict.fromkeys(assignment.values())
