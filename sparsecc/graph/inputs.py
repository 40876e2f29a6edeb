"""What a caller may feed to a host, checked before the host sees it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec


def bind(specs: Sequence[TensorSpec], inputs: Sequence[Any] | Mapping[str, Any]) -> list[Tensor]:
    """The inputs as tensors in the model's order, given by position or by name.

    Raises InputError, naming the input, for a wrong count, name, type, dtype, rank or dimension, and for NaN.
    """
    names = [spec.name for spec in specs]
    values = _by_name(names, inputs) if isinstance(inputs, Mapping) else _by_position(names, inputs)
    tensors = [as_tensor(value, f"input {name!r}") for name, value in zip(names, values, strict=True)]
    sizes: dict[str, tuple[int, str]] = {}
    for spec, tensor in zip(specs, tensors, strict=True):
        _check(spec, tensor, sizes)
    return tensors


def as_tensor(value: Any, what: str) -> Tensor:
    """A tensor that shares memory with a torch or numpy array where it can. Raises InputError for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, (np.ndarray, np.generic)):
        raise InputError(f"{what} is a {type(value).__name__}; pass a torch tensor or a numpy array")
    array = np.asarray(value)
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError):
        raise InputError(f"{what} is {array.dtype}, and torch cannot take such an array") from None


def dtype_name(dtype: torch.dtype) -> str:
    """numpy's name of a torch dtype: float32, int64, bool."""
    return str(dtype).removeprefix("torch.")


def _by_position(names: list[str], inputs: Sequence[Any]) -> list[Any]:
    if isinstance(inputs, (Tensor, np.ndarray)):
        inputs = (inputs,)
    if len(inputs) != len(names):
        raise InputError(f"{len(inputs)} inputs given, the model takes {len(names)}: {', '.join(names)}")
    return list(inputs)


def _by_name(names: list[str], inputs: Mapping[str, Any]) -> list[Any]:
    expected = f"the model takes {len(names)}: {', '.join(names)}"
    for name in inputs:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            raise InputError(f"no input {name!r}; " + (f"did you mean {near[0]!r}?" if near else expected))
    missing = [name for name in names if name not in inputs]
    if missing:
        raise InputError(f"input {missing[0]!r} is missing; {expected}")
    return [inputs[name] for name in names]


def _check(spec: TensorSpec, tensor: Tensor, sizes: dict[str, tuple[int, str]]) -> None:
    """sizes: what each named dimension is so far, and in which input."""
    takes = f"the model takes ({', '.join(map(str, spec.shape))})"
    shape = tuple(tensor.shape)
    if dtype_name(tensor.dtype) != spec.dtype:
        raise InputError(f"input {spec.name!r} is {dtype_name(tensor.dtype)}, the model takes {spec.dtype}")
    if len(shape) != len(spec.shape):
        raise InputError(f"input {spec.name!r} has shape {shape}, {takes}")
    for size, wanted in zip(shape, spec.shape, strict=True):
        known, owner = (wanted, "the model") if isinstance(wanted, int) else sizes.setdefault(wanted, (size, f"input {spec.name!r}"))
        if size != known and isinstance(wanted, int):
            raise InputError(f"input {spec.name!r} has shape {shape}, {takes}")
        if size != known:
            raise InputError(f"input {spec.name!r} has {wanted} = {size}, but {owner} has {wanted} = {known}")
    if tensor.is_floating_point() and bool(tensor.isnan().any()):
        raise InputError(f"input {spec.name!r} holds NaN")
