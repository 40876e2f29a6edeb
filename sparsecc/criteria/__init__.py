"""Pruning criteria: what each weight is worth. Members: alps, chita, fisher, magnitude, obs, random, sparsegpt,
spectral, wanda."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.criteria.base import Criterion


def create(name: str) -> Criterion:
    """The criterion of that name with its default options. Raises RecipeError with the nearest valid name when there is none."""
    return registry.create("criteria", name, Criterion)
