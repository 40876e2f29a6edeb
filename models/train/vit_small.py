"""Train the small ViT on distorted digits and write models/weights/vit_small.safetensors: about three minutes of one core.

python -m models.train.vit_small [--device cuda] [--steps 1600]
"""

from __future__ import annotations

import torch
from torch import Tensor

from models._digits import digits, distorted
from models._transformer import initialized
from models.train.loop import kept, options, train
from models.vit_small import VitSmall, held_out

STEPS = 1600
BATCH = 96
RATE = 2e-3


def main() -> None:
    arguments = options(__doc__, STEPS)
    torch.manual_seed(arguments.seed)
    module, (images, labels) = initialized(VitSmall()), digits(held_out=False)
    seconds = train(module, lambda generator: batch(images, labels, generator), arguments.steps, RATE, arguments.device, arguments.seed)
    kept(module, "vit_small", seconds, f"{top1(module):.1%} of held-out digits right")


def batch(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(images f32[96, 1, 16, 16], labels int64[96]), distorted anew each time."""
    chosen = torch.randint(len(labels), (BATCH,), generator=generator)
    return distorted(images[chosen], generator), labels[chosen]


def top1(module: torch.nn.Module) -> float:
    with torch.no_grad():
        images, labels = held_out(1440)
        return float((module(images).argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()
