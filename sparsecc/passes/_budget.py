"""What a recipe may ask of the size of all layers pruned, and what a layer takes of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsecc.errors import RecipeError
from sparsecc.formats import WORTHWHILE
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from sparsecc.formats.base import Format
    from sparsecc.graph.sites import WeightSite

Budget = Mapping[str, float | str]
_UNITS = {"": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}


def bytes_of(budget: Budget) -> int:
    """{bytes: 20e6} or {bytes: "20MB"} -> 20000000. Raises RecipeError."""
    if list(budget) != ["bytes"]:
        unknown = next((name for name in budget if name != "bytes"), None)
        wrong = "empty" if unknown is None else f"no {unknown!r}{did_you_mean(str(unknown), ['bytes'])}"
        raise RecipeError(f"budget: {wrong}; write it as {{bytes: 20MB}}")
    wanted = budget["bytes"]
    number = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?) ?(B|kB|KB|MB|GB)?", str(wanted))
    found = float(number[1]) * _UNITS[number[2] or ""] if number else 0.0
    if not 1 <= found < 2**63:
        raise RecipeError(f"budget: {wanted!r} is no number of bytes above zero, as 20e6 or 20MB")
    return int(found)


def nbytes(site: WeightSite, format: Format, kept: int) -> int:
    """What `pack` makes of a site at most with so many units kept: the bytes of the format, or the dense ones where it stays dense."""
    itemsize = site.weight.element_size()
    dense = site.rows * site.cols * itemsize
    packed = format.bytes_packed(site.rows, site.cols, kept * format.unit_size, itemsize)
    return packed if packed <= WORTHWHILE * dense else dense
