"""A small model learns, the same one every time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.train.loop import train


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(32, 8, generator=generator)
    return inputs, (inputs[:, 0] > 0).long()


def learnt(seed: int = 0) -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(8, 2)
    train(module, draw, steps=60, rate=0.1, device="cpu", seed=seed)
    return module


def test_it_learns_and_ends_in_eval_mode() -> None:
    module = learnt()
    inputs, labels = draw(torch.Generator().manual_seed(9))
    assert float((module(inputs).argmax(1) == labels).float().mean()) > 0.9
    assert not module.training


def test_the_same_seed_gives_the_same_weights() -> None:
    first, again, other = learnt().weight, learnt().weight, learnt(seed=1).weight
    assert torch.equal(first, again) and not torch.equal(first, other)
