"""A small ViT for digits with weights of our own, from `python -m models.train.vit_small`: 4 layers × 96, 16 patches, 0.5 M parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from models._digits import PIXELS, digits, distorted
from models._recipes import prune_and_pack
from models._transformer import Block
from models._weights import trained

PATCH = 4
WIDTH = 96
LAYERS = 4
HEADS = 4
CLASSES = 10


class VitSmall(nn.Module):
    """images f32[batch, 1, 16, 16] in [-1, 1] -> logits f32[batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(torch.zeros((PIXELS // PATCH) ** 2, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, causal=False) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def build() -> nn.Module:
    """With its trained weights."""
    return trained(VitSmall(), "vit_small")


def example_inputs(batch: int = 1) -> tuple[Tensor]:
    """(images,), f32[batch, 1, 16, 16]."""
    return (training_images(batch),)


def calibration(count: int) -> Iterator[tuple[Tensor]]:
    """Distorted digits of those that it was trained on, one each."""
    for image in training_images(count):
        yield (image[None],)


def training_images(count: int) -> Tensor:
    """f32[count, 1, 16, 16], other distortions than in training."""
    images, _ = digits(held_out=False)
    generator = torch.Generator().manual_seed(1)
    chosen = torch.arange(count) % len(images)
    return torch.cat([distorted(images[i : i + 1], generator) for i in chosen.tolist()])


def held_out(count: int) -> tuple[Tensor, Tensor]:
    """(images f32[count, 1, 16, 16], labels int64[count]): digits that it has not seen, each in several distortions."""
    images, labels = digits(held_out=True)
    chosen = torch.arange(count) % len(images)
    return distorted(images[chosen], torch.Generator().manual_seed(2)), labels[chosen]


def recipe(pattern: str = "unstructured", sparsity: float = 0.5) -> dict[str, Any]:
    """Every linear of the blocks; patch embedding and classifier stay dense."""
    return prune_and_pack([r"re:blocks\..*"], pattern, sparsity)
