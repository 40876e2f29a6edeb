"""Arrays in and out of generated code: numpy and torch through DLPack, without a copy where alignment allows it."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.codegen import tvm_api

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 64  # bytes; generated code uses aligned vector loads, and TVM refuses less


def is_torch(value: Any) -> bool:
    """Whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def dtype_name(array: np.ndarray | Tensor) -> str:
    """numpy's name of the element type, for torch tensors too."""
    return str(array.dtype).removeprefix("torch.")


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    nbytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def to_tvm(array: np.ndarray | Tensor) -> Any:
    """A TVM tensor over the array's memory, or over an aligned copy of it. `to_host` turns it back."""
    if 0 in array.shape:  # which has no address that could be aligned
        return tvm_api.empty(tuple(array.shape), dtype_name(array))
    if is_torch(array):
        return _torch_to_tvm(array)  # type: ignore[arg-type]
    return tvm_api.from_dlpack(in_place(np.asarray(array)))


def in_place(array: np.ndarray) -> np.ndarray:
    """The array itself if generated code can read it where it lies, otherwise an aligned copy."""
    flags = array.flags
    if flags.c_contiguous and flags.writeable and array.dtype.isnative and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype.newbyteorder("="))
    copy[...] = array
    return copy


def _torch_to_tvm(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    return tvm_api.from_dlpack(tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone())


def to_host(tensor: Any, as_torch: bool, borrowed: frozenset[int] = frozenset()) -> np.ndarray | Tensor:
    """A numpy array or torch tensor over a TVM tensor's memory.

    borrowed: addresses of inputs and weights; an output that merely hands one of them on is copied, so that callers own what they get.
    """
    array = np.from_dlpack(tensor)
    if array.ctypes.data in borrowed:
        array = array.copy()
    if not as_torch:
        return array
    import torch

    return torch.from_dlpack(array)


def address(tensor: Any) -> int:
    """Where a TVM tensor's data begins."""
    return np.from_dlpack(tensor).ctypes.data
