"""Patterns: which masks pruning may make. Members: block, nm, unstructured."""

from __future__ import annotations

import functools
import re

from sparsecc import registry
from sparsecc.errors import RecipeError
from sparsecc.options import shown
from sparsecc.patterns.base import Pattern


@functools.cache
def parse(text: str) -> Pattern:
    """The pattern that a recipe means by `unstructured`, `4x1` or `2:4`. Raises RecipeError, with what is wrong, for anything else, and
    for a text that two members read."""
    classes = list(registry.classes("patterns", Pattern))  # type: ignore[type-abstract]
    found = [pattern for cls in classes if (pattern := cls.parse(text)) is not None]
    if len(found) > 1:
        names = " and ".join(registry.name_of(pattern) for pattern in found)
        raise RecipeError(f"pattern: {shown(text)} is claimed by two patterns, {names}; remove the package that adds one of them")
    if found:
        return found[0]
    *others, last = (cls.spelling for cls in classes)
    raise RecipeError(f"pattern: {shown(text)} is none of {', '.join(others)} and {last}{_hint(text)}")


def _hint(text: str) -> str:
    numbers = re.findall(r"[0-9]+", text)
    if len(numbers) != 2 or len(text) > 20:
        return ""
    first, second = numbers
    return f"; did you mean '{first}:{second}' or '{first}x{second}'?"
