"""Sparse formats: how a weight matrix is stored under a mask. Members: block, csr, nm."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsecc import registry
from sparsecc.errors import RecipeError, Refused
from sparsecc.formats.base import Format

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.patterns.base import Pattern

HELPERS = ("primitives",)  # modules here that are no formats
DEFAULT_FORMATS = ("block", "csr", "nm")  # what recipes that name none mean; on a tie the first


def from_key(key: str) -> Format[Any]:
    """Inverse of `Format.key`. Raises RecipeError for a key that no member writes."""
    name, _, parameters = key.partition(":")
    format = registry.load_class("formats", name, Format).parse(parameters)
    if format is None or format.key != key:
        raise RecipeError(f"format {key!r} is not one that sparsecc writes")
    return format


@functools.cache
def storing(pattern: Pattern) -> Format[Any]:
    """The default format for masks of a pattern: its own where it has one, otherwise csr, which stores any mask."""
    for name in DEFAULT_FORMATS:
        if (format := registry.load_class("formats", name, Format).of(pattern)) is not None:
            return format
    return from_key("csr")


WORTHWHILE = 0.95  # of the dense bytes: a trained layer with a few dead inputs gains nothing that pays for an index


@dataclass(frozen=True)
class Fit:
    """A way to store a mask. stored: weights in the packed values, kept ones and padding. bytes_packed: all its tensors."""

    format: Format
    stored: int
    bytes_packed: int


def fits(keep: Tensor, formats: Sequence[str] = DEFAULT_FORMATS, itemsize: float = 4) -> list[Fit]:
    """Every way in which these members can store a mask, fewest bytes first; on a tie the larger unit, then the order of `formats`.

    keep: bool[rows, cols].  itemsize: bytes per weight, a half where two share one.
    """
    rows, cols = keep.shape
    found = [
        Fit(format, stored, _bytes_of(format, stored, itemsize) + format.bytes_packed(rows, cols, stored, 0))
        for name in formats
        for format, stored in registry.load_class("formats", name, Format).fits(keep)
    ]
    return sorted(found, key=lambda fit: (fit.bytes_packed, -fit.format.pattern.unit_size))


def _bytes_of(format: Format[Any], values: int, itemsize: float) -> int:
    """Without indices. Two values share a byte only where the format says how many there are."""
    return math.ceil(values * (itemsize if format.says_extents else max(1, itemsize)))


def cheapest(keep: Tensor, formats: Sequence[str] = DEFAULT_FORMATS, itemsize: float = 4) -> Fit | Refused:
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
    bytes_dense = math.ceil(keep.numel() * itemsize)
    if found[0].bytes_packed <= WORTHWHILE * bytes_dense:
        return found[0]
    miss = next((fit for fit in found if fit.stored == kept), found[0])
    return Refused(f"{sparsity}: {miss.format.key} would take {miss.bytes_packed / bytes_dense:.2f}x the dense bytes")
