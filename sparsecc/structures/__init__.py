"""Structured matrices: products of small factors that stand for a dense weight. Members: armor, kronecker, low_rank,
monarch."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.structures.base import Structure

AUTO = ("armor", "low_rank", "monarch")  # named, so that a new file in this folder changes nothing for recipes that do not name it


def from_key(key: str) -> Structure:
    """Inverse of `Structure.key`. Raises RecipeError for a key that no member writes."""
    name, _, parameters = key.partition(":")
    structure = registry.load_class("structures", name, Structure).parse(parameters)
    if structure is None or structure.key != key:
        raise RecipeError(f"structure {key!r} is not one that sparsecc writes")
    return structure


def sized(name: str, rows: int, cols: int, params: float) -> list[Structure]:
    """`Structure.sized` of one member, or of all in AUTO for "auto". Of a key: that structure alone, where it fits and is small enough."""
    if ":" in name:
        structure = from_key(name)
        fits = structure.check(rows, cols) is None and structure.params(rows, cols) <= params * rows * cols
        return [structure] if fits else []
    classes = [registry.load_class("structures", one, Structure) for one in (AUTO if name == "auto" else [name])]
    return [structure for cls in classes for structure in cls.sized(rows, cols, params)]
