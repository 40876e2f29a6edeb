"""Inputs as callers hand them in, brought into a model's order, without torch where none is passed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.binding import bind, is_torch


def in_order(specs: Sequence[TensorSpec], sample: Any) -> list[Any]:
    """A tensor, a tuple of them or a dict by name, as inputs in the model's order. Raises InputError.

    Lists and dicts of tensors among them are taken apart, as torch.export does; what is no tensor is left out.
    """
    if not isinstance(sample, Mapping):
        return bind(specs, tensors_in(as_tuple(sample)), {})
    names = {spec.name for spec in specs}
    if any(isinstance(value, Mapping | list | tuple) for name, value in sample.items() if name not in names):
        return bind(specs, tensors_in(tuple(sample.values())), {})
    return bind(specs, (), {str(name): value for name, value in sample.items() if is_array(value) or name in names})


def as_tuple(sample: Any) -> tuple[Any, ...]:
    if is_array(sample):
        return (sample,)
    if not isinstance(sample, Iterable) or isinstance(sample, str | bytes):
        raise InputError(f"inputs are a {type(sample).__name__}; pass an array, a tuple of them, or a dict by name")
    return tuple(sample)


def tensors_in(values: Any) -> tuple[Any, ...]:
    """The arrays in nested lists, tuples and dicts, in the order of torch.export; flags and None are part of its graph."""
    if all(is_array(value) for value in values):
        return tuple(values)
    from torch.utils import _pytree as pytree

    return tuple(leaf for leaf in pytree.tree_leaves(values) if is_array(leaf))


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_torch(value)
