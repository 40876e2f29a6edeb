"""What a host is fed: a caller's inputs as torch tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from sparsecc.errors import InputError
from sparsecc.graph import binding
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.binding import is_torch


class Sample(tuple[Tensor, ...]):
    """Inputs that were looked at once and need not be looked at again: tensors in the model's order, of its types and shapes, without NaN.

    specs: what the model takes. `bind` and `checked` make samples of what callers give."""

    specs: tuple[TensorSpec, ...]

    def __new__(cls, specs: Sequence[TensorSpec], tensors: Iterable[Tensor]) -> Sample:
        sample = super().__new__(cls, tensors)
        sample.specs = tuple(specs)
        return sample

    def copied(self) -> Sample:
        """In memory of its own."""
        return Sample(self.specs, (tensor.clone() for tensor in self))


def bind(specs: Sequence[TensorSpec], inputs: Sequence[Any] | Mapping[str, Any]) -> Sample:
    """The inputs as tensors in the model's order, given by position or by name; a sample of this model as it is.

    Raises InputError, naming the input, for a wrong count, name, type, dtype, rank or dimension, and for NaN.
    """
    if isinstance(inputs, Sample) and inputs.specs == tuple(specs):
        return inputs
    if isinstance(inputs, Mapping):
        values = binding.bind(specs, (), inputs)
    else:
        values = binding.bind(specs, (inputs,) if is_torch(inputs) or isinstance(inputs, np.ndarray) else inputs, {})
    return checked(specs, values)


def checked(specs: Sequence[TensorSpec], values: Sequence[Any]) -> Sample:
    """A sample of what `binding.bind` has passed. Raises InputError, naming the input, for NaN and for what torch cannot take."""
    binding.reject_nan(specs, values)
    return Sample(specs, (as_tensor(value, f"input {spec.name!r}") for spec, value in zip(specs, values, strict=True)))


def as_tensor(value: Any, what: str) -> Tensor:
    """A tensor that shares memory with a torch or numpy array where it can. Raises InputError for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, (np.ndarray, np.generic)):
        raise InputError(f"{what} is a {type(value).__name__}; pass a torch tensor or a numpy array")
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # which torch does not know as ml_dtypes' numpy type
        return torch.from_numpy(np.asarray(array, order="C").view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError):
        raise InputError(f"{what} is {array.dtype}, and torch cannot take such an array") from None


def as_array(tensor: Tensor) -> np.ndarray:
    """A numpy array that shares memory with a tensor on the CPU where it can; bfloat16 is ml_dtypes'."""
    here = tensor.detach().cpu().contiguous()
    return here.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if here.dtype == torch.bfloat16 else here.numpy()
