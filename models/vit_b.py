"""ViT-B/16 at 224 pixels (Dosovitskiy et al. 2021): its shapes, random weights. 12 layers × 768, 197 tokens, 86 M parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models._images import natural_images
from models._random import randomize
from models._recipes import prune_and_pack

PIXELS = 224


def build() -> nn.Module:
    """ViTForImageClassification: pixel_values -> logits f32[batch, 1000]."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(num_labels=1000, attn_implementation="sdpa")  # the defaults are ViT-B/16
    return randomize(ViTForImageClassification(config))


def example_inputs(batch: int = 1) -> tuple[Tensor]:
    """(pixel_values,), f32[batch, 3, 224, 224] in [-1, 1]."""
    return (torch.cat([sample for (sample,) in calibration(batch)]),)


def calibration(count: int) -> Iterator[tuple[Tensor]]:
    """Noise with the spectrum of photographs, one image each."""
    for image in natural_images(count, PIXELS, PIXELS):
        yield (torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).contiguous() * 2 - 1,)


def recipe(pattern: str = "4x1", sparsity: float = 0.7) -> dict[str, Any]:
    """Every linear of the encoder; patch embedding and classifier stay dense."""
    return prune_and_pack([r"re:vit\.(encoder\.layer|layers)\..*"], pattern, sparsity)
