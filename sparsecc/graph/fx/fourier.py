"""Discrete Fourier transforms as matrix products; values are pairs (real, imaginary) of real tensors, sizes a few hundred points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecc.errors import ModelError

Parts = tuple[Tensor, Tensor]
_LARGEST = 1 << 24  # numbers of a matrix


def of_complex(x: Parts, axes: Sequence[int], normalization: int, forward: bool) -> Parts:
    """normalization: none, by the root of the number of points, by that number."""
    for axis in axes:
        real, imag = (part.movedim(axis, -1) for part in x)
        size = real.shape[-1]
        cos, sin = _matrices(size, size, real, _scale(size, normalization))
        sin = -sin if forward else sin
        x = (real @ cos - imag @ sin).movedim(-1, axis), (real @ sin + imag @ cos).movedim(-1, axis)
    return x


def of_real(x: Tensor, axes: Sequence[int], normalization: int, onesided: bool) -> Parts:
    """onesided: the second half of the last axis, which mirrors the first, is left out."""
    *others, last = axes
    moved = x.movedim(last, -1)
    size = moved.shape[-1]
    cos, sin = _matrices(size, size // 2 + 1 if onesided else size, x, _scale(size, normalization))
    spectrum = (moved @ cos).movedim(-1, last), (moved @ -sin).movedim(-1, last)
    return of_complex(spectrum, others, normalization, forward=True)


def back_to_real(x: Parts, axes: Sequence[int], normalization: int, size: int) -> Tensor:
    """The inverse of a onesided one.  size: points of the last axis."""
    *others, last = axes
    real, imag = (part.movedim(last, -1) for part in of_complex(x, others, normalization, forward=False))
    bins = real.shape[-1]
    cos, sin = _matrices(bins, size, real, _scale(size, normalization), points=size)
    frequency = torch.arange(bins, device=real.device).unsqueeze(1)
    mirrored = ((frequency > 0) & (frequency * 2 != size)).to(real.dtype) + 1  # counted twice, as the other half is not there
    return (real @ (cos * mirrored) - imag @ (sin * mirrored)).movedim(-1, last)


def _matrices(rows: int, cols: int, like: Tensor, scale: float, points: int | None = None) -> Parts:
    """cos and sin of 2π·row·col / points, scaled; points: as many as rows."""
    points = rows if points is None else points
    if rows * cols > _LARGEST:
        raise ModelError(f"a Fourier transform of {points} points takes a matrix of more than {_LARGEST >> 20} million numbers")
    place = torch.arange(rows, device=like.device).unsqueeze(1) * torch.arange(cols, device=like.device)
    turns = place.remainder(points).double() * (2 * math.pi / points)
    return (turns.cos() * scale).to(like.dtype), (turns.sin() * scale).to(like.dtype)


def _scale(size: int, normalization: int) -> float:
    return (1.0, size**-0.5, 1 / size)[normalization]
