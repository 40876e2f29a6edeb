"""Arrays in and out of generated code: numpy and torch through DLPack, without a copy where alignment allows it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.alignment import ALIGNMENT, aligned_empty, in_place, readable
from sparsecc.graph.binding import dtype_name, is_torch

if TYPE_CHECKING:
    from torch import Tensor


def to_tvm(array: np.ndarray | Tensor) -> Any:
    """A TVM tensor over the array's memory, or over an aligned copy of it. `to_host` turns it back."""
    if 0 in array.shape:  # which has no address that could be aligned
        return tvm_api.empty(tuple(array.shape), dtype_name(array))
    if is_torch(array):
        return _torch_to_tvm(array)  # type: ignore[arg-type]
    return tvm_api.from_dlpack(in_place(np.asarray(array)))


class Placed(NamedTuple):
    """An input where generated code reads it.  array: what was given, or the copy of it that is read.  address: of the first byte."""

    tensor: Any
    array: np.ndarray | Tensor
    address: int


class Staging(threading.local):
    """`to_tvm` for the inputs of call after call: what has to be copied goes to memory that the thread keeps, since new pages for each call
    cost more than the copy (1 ms for an image of 0.6 MB)."""

    def __init__(self) -> None:
        self._buffers: dict[int, tuple[np.ndarray, Placed]] = {}

    def place(self, position: int, array: np.ndarray | Tensor) -> Placed:
        """position: of the input. What was returned for it before is overwritten."""
        if not isinstance(array, np.ndarray) or array.size == 0:
            tensor = to_tvm(array)
            return Placed(tensor, array, address(tensor))
        if readable(array):
            return Placed(tvm_api.from_dlpack(array), array, array.ctypes.data)
        dtype, held = array.dtype.newbyteorder("="), self._buffers.get(position)
        if held is None or held[0].shape != array.shape or held[0].dtype != dtype:
            buffer = aligned_empty(array.shape, dtype)
            held = self._buffers[position] = buffer, Placed(tvm_api.from_dlpack(buffer), buffer, buffer.ctypes.data)
        held[0][...] = array
        return held[1]


def _torch_to_tvm(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu().contiguous()
    return tvm_api.from_dlpack(tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone())


def to_host(tensor: Any, as_torch: bool, taken: set[int] | None = None) -> np.ndarray | Tensor:
    """A numpy array or torch tensor over a TVM tensor's memory.

    taken: addresses of inputs, weights and outputs so far, to which this one's is added; an output that merely hands one of them on is
    copied, so that callers own what they get.
    """
    array = np.from_dlpack(tensor)
    if taken is not None:
        place = array.ctypes.data
        if place in taken:
            array = array.copy()
        taken.add(place)
    if not as_torch:
        return array
    import torch

    return torch.from_dlpack(array)


def address(tensor: Any) -> int:
    """Where a TVM tensor's data begins."""
    return np.from_dlpack(tensor).ctypes.data
