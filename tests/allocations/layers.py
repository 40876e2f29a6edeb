"""Layers to allocate over."""

from __future__ import annotations

import math

import torch

from sparsecc.allocations.base import Share


def layer(name: str, *shape: int, scale: float = 1.0, unit: int = 1) -> Share:
    """A layer whose scores are uniform in [0, scale), with two bytes for each unit and a loss of scale·units·sparsity³."""
    units = math.prod(shape) // unit
    scores = scale * torch.rand(units, generator=torch.Generator().manual_seed(len(name)))
    return Share(name, shape, units, lambda: scores, lambda sparsity: scale * units * sparsity**3, lambda kept: 2 * kept)


LAYERS = [layer("narrow", 8, 16), layer("wide", 64, 256), layer("conv", 16, 8, 3, 3), layer("weak", 32, 32, scale=0.01)]


def kept(layers: list[Share], shares: list[float]) -> list[int]:
    return [each.units - round(share * each.units) for each, share in zip(layers, shares, strict=True)]
