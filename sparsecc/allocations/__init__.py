"""Allocations: how much of each layer to prune for a sparsity of the whole. Members: erk, global, owl, sensitivity, uniform."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.allocations.base import Allocation


def create(name: str) -> Allocation:
    """The allocation of that name with its default options. Raises RecipeError with the nearest valid name when there is none."""
    return registry.create("allocations", name, Allocation)
