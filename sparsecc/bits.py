"""Small numbers in the bits of a byte: how formats store masks and positions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def pack_bits(numbers: Tensor, width: int = 1) -> Tensor:
    """uint8 [..., n] of `width` significant bits (1, 2, 4 or 8), or bool → uint8 [..., ⌈n·width/8⌉], the first in the lowest bits.
    The last axis is padded with zeros to whole bytes."""
    per_byte = 8 // width
    padded = torch.nn.functional.pad(numbers.to(torch.uint8), (0, -numbers.shape[-1] % per_byte))
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=numbers.device)
    return (padded.unflatten(-1, (-1, per_byte)) << shifts).sum(dim=-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """bool [..., count]: the flags that `pack_bits` has stored."""
    return torch.from_numpy(np.unpackbits(packed.cpu().numpy(), axis=-1, count=count, bitorder="little").astype(bool))


def numbers_of_bytes(width: int = 1) -> np.ndarray:
    """int32 [256, 8 / width]: the numbers that each byte holds, to look up what `pack_bits` has stored."""
    return np.arange(256, dtype=np.int32)[:, None] >> np.arange(0, 8, width, dtype=np.int32) & (1 << width) - 1
