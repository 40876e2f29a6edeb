"""Number formats in fewer bits than float32, for weights and for what they are multiplied with. Members: bfloat16, int4, int8,
int8_weight_only."""

from __future__ import annotations

from sparsecc import formats, registry
from sparsecc.errors import RecipeError
from sparsecc.precisions.base import Precision, Scheme


def from_key(key: str) -> Precision:
    """Inverse of `Precision.key`. Raises RecipeError for a key that no member writes."""
    name, _, options = key.partition(":")
    precision = _member(name).parse(options)
    if precision is None or precision.key != key:
        raise RecipeError(f"precision {key!r} is not one that sparsecc writes")
    return precision


def usual(name: str) -> Precision:
    """The member with the options that it has where nobody sets any."""
    precision = _member(name).parse("")
    if precision is None:
        raise RecipeError(f"precision {name!r} has no form without options")
    return precision


def _member(name: str) -> type[Precision]:
    return registry.load_class("precisions", name, Precision)


def scheme_from_key(key: str) -> Scheme:
    """Inverse of `Scheme.key`. Raises RecipeError for a key that sparsecc does not write."""
    precision, _, format = key.partition("/")
    return Scheme(from_key(precision), formats.from_key(format) if format else None)
