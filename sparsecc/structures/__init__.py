"""Structured matrices: products of small factors that stand for a dense weight. Members: armor, low_rank, monarch."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.structures.base import Structure


def from_key(key: str) -> Structure:
    """Inverse of `Structure.key`. Raises RecipeError for a key that no member writes."""
    name, _, parameters = key.partition(":")
    structure = registry.load_class("structures", name, Structure).parse(parameters)
    if structure is None or structure.key != key:
        raise RecipeError(f"structure {key!r} is not one that sparsecc writes")
    return structure


def sized(name: str, rows: int, cols: int, params: float) -> list[Structure]:
    """`Structure.sized` of one member, or of all of them for "auto"."""
    everything = registry.classes("structures", Structure)
    classes = everything if name == "auto" else [registry.load_class("structures", name, Structure)]
    return [structure for cls in classes for structure in cls.sized(rows, cols, params)]
