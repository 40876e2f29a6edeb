"""The members that the laws run over: those that each member's class names in its `examples`."""

from __future__ import annotations

from typing import Any

from sparsecc import formats, patterns, precisions, registry, structures
from sparsecc.allocations.base import Allocation
from sparsecc.attention.base import Pattern
from sparsecc.autotune.metrics.base import Metric
from sparsecc.criteria.base import Criterion
from sparsecc.formats.base import Format
from sparsecc.passes.base import Pass
from sparsecc.patterns.base import Pattern as MaskPattern
from sparsecc.precisions.base import Precision
from sparsecc.refinements.base import Refinement
from sparsecc.structures.base import Structure
from sparsecc.train.base import Method

BASES: dict[str, type] = {
    "allocations": Allocation,
    "attention": Pattern,
    "autotune.metrics": Metric,
    "criteria": Criterion,
    "formats": Format,
    "passes": Pass,
    "patterns": MaskPattern,
    "precisions": Precision,
    "refinements": Refinement,
    "structures": Structure,
    "train": Method,
}


def member(family: str, name: str) -> Any:
    """The class of a member."""
    return registry.load_class(family, name, BASES[family])


def examples(family: str) -> list[tuple[str, Any]]:
    """(member, one of its examples), in their order."""
    return [(name, example) for name in registry.members(family) for example in member(family, name).examples]


def _made(family: str) -> dict[str, Any]:
    """Members of a family whose fields are options, by a name that says which."""
    found = [(name, options, member(family, name)(**options)) for name, options in examples(family)]
    return {"-".join([name, *(f"{key}={value}" for key, value in options.items())]): made for name, options, made in found}


def _keys(family: str) -> list[str]:
    return [f"{name}:{parameters}".rstrip(":") for name, parameters in examples(family)]


PATTERNS: list[MaskPattern] = [patterns.parse(text) for _, text in examples("patterns")]
FORMATS: list[Format] = [formats.from_key(key) for key in _keys("formats")]
ALLOCATIONS: dict[str, Allocation] = _made("allocations")
ATTENTION: dict[str, Pattern] = _made("attention")
CRITERIA: dict[str, Criterion] = _made("criteria")
METRICS: dict[str, Metric[Any]] = _made("autotune.metrics")
REFINEMENTS: dict[str, Refinement] = _made("refinements")
STRUCTURES: list[Structure] = [structures.from_key(key) for key in _keys("structures")]
PRECISIONS: list[Precision] = [precisions.from_key(key) for key in _keys("precisions")]
