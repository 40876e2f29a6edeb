"""What a recipe may ask of the size of all layers pruned, and what a layer takes of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsecc import formats
from sparsecc.allocations.base import Limit
from sparsecc.errors import RecipeError
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from sparsecc.graph.sites import WeightSite
    from sparsecc.patterns.base import Pattern

KINDS = ("bytes", "milliseconds")
Budget = Mapping[str, float | str]
_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_FACTORS = {"": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}


def limit_of(budget: Budget) -> Limit:
    """{bytes: 20e6}, {bytes: "20MB"} or {milliseconds: 4.5}. Raises RecipeError."""
    if len(budget) != 1 or next(iter(budget)) not in KINDS:
        unknown = next((name for name in budget if name not in KINDS), None)
        several = "empty" if not budget else f"{' and '.join(budget)} at once"
        wrong = several if unknown is None else f"no {unknown!r}{did_you_mean(str(unknown), list(KINDS))}"
        raise RecipeError(f"budget: {wrong}; write it as {{bytes: 20MB}} or {{milliseconds: 4.5}}")
    [(unit, wanted)] = budget.items()
    return Limit(_bytes(wanted) if unit == "bytes" else _milliseconds(wanted), unit)


def _milliseconds(wanted: float | str) -> float:
    number = re.fullmatch(_NUMBER, str(wanted))
    found = float(number[0]) if number else 0.0
    if not 0 < found < math.inf:
        raise RecipeError(f"budget: {wanted!r} is no number of milliseconds above zero")
    return found


def _bytes(wanted: float | str) -> int:
    number = re.fullmatch(rf"({_NUMBER}) ?(B|kB|KB|MB|GB)?", str(wanted))
    found = float(number[1]) * _FACTORS[number[2] or ""] if number else 0.0
    if not 1 <= found < 2**63:
        raise RecipeError(f"budget: {wanted!r} is no number of bytes above zero, as 20e6 or 20MB")
    return int(found)


def nbytes(site: WeightSite, pattern: Pattern, kept: int) -> int:
    """What `pack` makes of a site at most with so many units kept: the bytes of the pattern's format, or the dense ones where it stays
    dense."""
    itemsize = site.weight.element_size()
    dense = site.rows * site.cols * itemsize
    packed = formats.storing(pattern).bytes_packed(site.rows, site.cols, kept * pattern.unit_size, itemsize)
    return packed if packed <= formats.WORTHWHILE * dense else dense
