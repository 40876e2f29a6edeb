"""Pictures as PNG with nothing but zlib: machines that train have no imaging library."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

_RGB8 = (8, 2, 0, 0, 0)  # bits, colours, and the only methods of compression, filters and rows that there are


def write_png(path: Path, image: Tensor) -> None:
    """image: f32[3, height, width] in [-1, 1]; what is outside is cut off."""
    levels = (image.detach().float().cpu() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.numpy().tobytes() for row in levels)
    parts = ((b"IHDR", struct.pack(">II5B", width, height, *_RGB8)), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts))


def strip(video: Tensor, every: int = 1, gap: int = 2) -> Tensor:
    """f32[3, height, …]: each `every`-th frame of video [3, frames, height, width] beside the one before it, white between them."""
    frames = torch.nn.functional.pad(video[:, ::every], (0, gap), value=1.0)
    return frames.transpose(1, 2).flatten(2)[..., : -gap or None]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
