"""Sparse attention patterns: which blocks of an attention map are computed, over which order of the tokens. Members: paro."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.attention.base import Pattern

HELPERS = ("mass", "plan")  # modules here that are no patterns


def create(name: str) -> Pattern:
    """The pattern of that name with its default options. Raises RecipeError with the nearest valid name when there is none."""
    return registry.load_class("attention", name, Pattern)()
