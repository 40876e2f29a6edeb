"""Sparse attention patterns: which blocks of an attention map are computed, over which order of the tokens. Members:
block_topk, loki, paro, skip_softmax, sliding_window, star, strided, tri_shape."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.attention.base import Pattern
from sparsecc.errors import RecipeError

HELPERS = (
    "dynamic",
    "export",
    "fixed",
    "judge",
    "ladder",
    "mass",
    "orders",
    "plan",
    "rounding",
    "sharing",
    "steps",
)  # modules here that are no patterns


def create(key: str) -> Pattern:
    """The pattern of that name, with its default options or those behind a colon. Raises RecipeError with the nearest valid name when
    there is none, and for options that it does not read."""
    name, _, parameters = key.partition(":")
    pattern = registry.load_class("attention", name, Pattern).parse(parameters)
    if pattern is None:
        raise RecipeError(f"pattern {key!r}: {name} reads no options {parameters!r}")
    return pattern
