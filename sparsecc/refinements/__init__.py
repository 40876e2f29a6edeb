"""Refinements: masks that a criterion has chosen, made better while the weights stay as they are. Members: dsnot."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.refinements.base import Refinement


def create(name: str) -> Refinement:
    """The refinement of that name with its default options. Raises RecipeError with the nearest valid name when there is none."""
    return registry.create("refinements", name, Refinement)
