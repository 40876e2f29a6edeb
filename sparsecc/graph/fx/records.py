"""Dataclasses among what a model takes and returns: torch.export has to know their fields."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.utils import _pytree as pytree


def register(values: Any) -> None:
    """Tell torch.export of every dataclass in these values, as its user would do."""
    known: set[type] = set()
    while True:
        kinds = {type(leaf) for leaf in pytree.tree_leaves(values) if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)}
        if kinds <= known:
            return
        for kind in kinds - known:
            torch.export.register_dataclass(kind)
        known |= kinds
