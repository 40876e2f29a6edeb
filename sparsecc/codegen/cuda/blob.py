"""A packed weight as one tensor of bytes: an operator with one argument for it costs less host time than one with a list.

Parts stand one after another, each at a multiple of 256 bytes; only the last one's size may depend on the weight's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sparsecc.codegen.cuda.kernel import Part

_ALIGNMENT = 256


def offsets(layout: Mapping[str, Part]) -> tuple[int, ...]:
    """Bytes before each part."""
    found, at = [], 0
    for part in layout.values():
        found.append(at)
        at += -(-math.prod(part.shape) * getattr(torch, part.dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
    return tuple(found)


def joined(parts: Mapping[str, Tensor], layout: Mapping[str, Part]) -> Tensor:
    """uint8 [bytes]. parts: by the names of the layout, of its types and shapes."""
    starts, tensors = offsets(layout), [parts[name] for name in layout]
    blob = torch.zeros(starts[-1] + tensors[-1].nbytes, dtype=torch.uint8, device=tensors[-1].device)
    for start, tensor in zip(starts, tensors, strict=True):
        blob[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    return blob


def separated(blob: Tensor, layout: Mapping[str, Part]) -> dict[str, Tensor]:
    """Inverse of `joined`, as views."""
    starts = offsets(layout)
    ends = (*starts[1:], len(blob))
    found = {}
    for (name, part), start, end in zip(layout.items(), starts, ends, strict=True):
        dtype = getattr(torch, part.dtype)
        size = -1 if -1 in part.shape else math.prod(part.shape) * dtype.itemsize
        found[name] = blob[start : end if size < 0 else start + size].view(dtype).view(part.shape)
    return found
