"""Sparse formats: which masks they hold and how they store a weight matrix. Members: csr, block, nm."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsecc import registry
from sparsecc.errors import RecipeError, Refused
from sparsecc.formats.base import Format
from sparsecc.options import shown

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_FORMATS = ("block", "csr", "nm")  # what recipes that name none mean; on a tie the first


def from_pattern(pattern: str) -> Format:
    """The format that a recipe means by `unstructured`, `4x1` or `2:4`. Raises RecipeError, with what is wrong, for anything else."""
    own = (registry.load_class("formats", name, Format) for name in DEFAULT_FORMATS)  # type: ignore[type-abstract]
    for cls in itertools.chain(own, registry.classes("formats", Format)):  # type: ignore[type-abstract]  # these first: they say what patterns mean
        if (format := cls.parse(pattern)) is not None:
            return format
    raise RecipeError(f"pattern: {shown(pattern)} is none of 'unstructured', RxC (as '4x1') and N:M (as '2:4'){_hint(pattern)}")


def from_key(key: str) -> Format:
    """Inverse of `Format.key`. Raises RecipeError for a key that no member writes."""
    name, _, pattern = key.partition(":")
    format = registry.load_class("formats", name, Format).parse(pattern or "unstructured")  # type: ignore[type-abstract]
    if format is None or format.key != key:
        raise RecipeError(f"format {key!r} is not one that sparsecc writes")
    return format


WORTHWHILE = 0.95  # of the dense bytes: a trained layer with a few dead inputs gains nothing that pays for an index


@dataclass(frozen=True)
class Fit:
    """A way to store a mask. stored: weights in the packed values, kept ones and padding. bytes_packed: all its tensors."""

    format: Format
    stored: int
    bytes_packed: int


def fits(keep: Tensor, formats: Sequence[str] = DEFAULT_FORMATS, itemsize: int = 4) -> list[Fit]:
    """Every way in which these members can store a mask, fewest bytes first; on a tie the larger unit, then the order of `formats`.

    keep: bool[rows, cols].  itemsize: bytes per weight.
    """
    rows, cols = keep.shape
    found = [
        Fit(format, stored, format.bytes_packed(rows, cols, stored, itemsize))
        for name in formats
        for format, stored in registry.load_class("formats", name, Format).fits(keep)  # type: ignore[type-abstract]
    ]
    return sorted(found, key=lambda fit: (fit.bytes_packed, -fit.format.unit_size))


def cheapest(keep: Tensor, formats: Sequence[str] = DEFAULT_FORMATS, itemsize: int = 4) -> Fit | Refused:
    """The first of `fits`, or Refused when it takes hardly fewer bytes than the dense matrix, with the numbers of the nearest miss:
    the best that holds the mask without padding.

    A unit with a zero too many is stored whole all the same, so that a stray zero weight does not turn 4x1 blocks into csr.
    """
    kept = int(keep.count_nonzero())
    if kept == keep.numel():
        return Refused("no zeros")
    sparsity = f"sparsity {1 - kept / keep.numel():.2f}"
    found = fits(keep, formats, itemsize)
    if not found:
        return Refused(f"{sparsity}: the mask fits none of the formats {', '.join(formats)}")
    bytes_dense = keep.numel() * itemsize
    if found[0].bytes_packed <= WORTHWHILE * bytes_dense:
        return found[0]
    miss = next((fit for fit in found if fit.stored == kept), found[0])
    return Refused(f"{sparsity}: {miss.format.key} would take {miss.bytes_packed / bytes_dense:.2f}x the dense bytes")


def _hint(pattern: str) -> str:
    numbers = re.findall(r"[0-9]+", str(pattern))
    if len(numbers) != 2 or len(pattern) > 20:
        return ""
    first, second = numbers
    return f"; did you mean '{first}:{second}' or '{first}x{second}'?"
