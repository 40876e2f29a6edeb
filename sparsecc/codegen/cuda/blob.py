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


def offsets(layout: Mapping[str, Part]) -> dict[str, int]:
    """Bytes before each part."""
    found, at = {}, 0
    for name, part in layout.items():
        found[name] = at
        at += -(-math.prod(part.shape) * getattr(torch, part.dtype).itemsize // _ALIGNMENT) * _ALIGNMENT
    return found


def joined(parts: Mapping[str, Tensor], layout: Mapping[str, Part]) -> Tensor:
    """uint8 [bytes]. parts: by the names of the layout, of its types and shapes."""
    starts, last = offsets(layout), list(layout)[-1]
    blob = torch.zeros(starts[last] + parts[last].nbytes, dtype=torch.uint8, device=parts[last].device)
    for name, start in starts.items():
        tensor = parts[name]
        blob[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    return blob


def separated(blob: Tensor, layout: Mapping[str, Part]) -> dict[str, Tensor]:
    """Inverse of `joined`, as views."""
    found = {}
    for name, start in offsets(layout).items():
        part = layout[name]
        dtype = getattr(torch, part.dtype)
        end = len(blob) if -1 in part.shape else start + math.prod(part.shape) * dtype.itemsize
        found[name] = blob[start:end].view(dtype).view(part.shape)
    return found
