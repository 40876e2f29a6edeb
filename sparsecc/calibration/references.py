"""Right answers beside samples: arrays called `reference:NAME`, which no model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsecc.errors import InputError
from sparsecc.graph.binding import is_torch
from sparsecc.graph.given import is_array

REFERENCE = "reference:"  # how the names of such arrays begin


def apart(arrays: Mapping[str, Any], label: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Inputs, and references by their names without `reference:`. Raises InputError for a reference that is no array of numbers."""
    inputs, references = {}, {}
    for name, value in arrays.items():
        if not isinstance(name, str) or not name.startswith(REFERENCE):
            inputs[name] = value
            continue
        array = np.asarray(value.detach().cpu()) if is_torch(value) else value
        if not is_array(array) or not array.ndim:
            raise InputError(f"{label}: {name!r} is no array with an entry for each item")
        references[name.removeprefix(REFERENCE)] = array
    return inputs, references


def cut(references: Mapping[str, np.ndarray], items: Sequence[int], label: str) -> list[dict[str, np.ndarray]]:
    """Those of each sample. items: how many each sample has. Raises InputError where a reference has not one entry for each item."""
    wanted, starts = sum(items), np.cumsum([0, *items])
    for name, array in references.items():
        if len(array) != wanted:
            raise InputError(f"{label}: {REFERENCE + name!r} has {len(array)} entries, there are {wanted} items in {len(items)} samples")
    return [{name: array[start : start + count] for name, array in references.items()} for start, count in zip(starts, items, strict=False)]


def items_of(shape: Sequence[int]) -> int:
    """Entries of the batch in a sample whose first input has this shape: its first axis is the batch where it has two axes or more."""
    return shape[0] if len(shape) > 1 else 1
