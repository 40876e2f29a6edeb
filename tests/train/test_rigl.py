from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.train.rigl import Rigl
from tests.train.problem import attached, step, weight_of
from tests.train.views import random, view


def test_it_finds_the_weights_that_made_the_data() -> None:
    generator = torch.Generator().manual_seed(4)
    planted = torch.rand(16, 40, generator=generator) < 0.1
    truth = planted * (torch.rand(16, 40, generator=generator) + 0.5)
    model = nn.Sequential(nn.Linear(40, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    sparsity = 1 - int(planted.sum()) / planted.numel()
    _, handle = attached("rigl", model, optimizer, steps=300, every=10, sparsity=sparsity, start="random")
    before = int((handle.state_dict()["masks"]["0"] & planted).sum())
    for _ in range(300):
        x = torch.randn(64, 40, generator=generator)
        step(model, optimizer, x, x @ truth.T)
    handle.finish()
    assert before < 0.3 * int(planted.sum())
    assert torch.equal(weight_of(model) != 0, planted)


def test_the_share_falls_as_a_cosine() -> None:
    method = Rigl(steps=100, share=0.4, end=80)
    assert [method.exchanged(step) for step in (0, 40, 80)] == pytest.approx([0.4, 0.2, 0])


def test_without_a_gradient_nothing_is_exchanged() -> None:
    keep = random() > 0
    assert torch.equal(Rigl(steps=100).change(view(random(), keep), 10), keep)


def test_new_weights_start_at_zero_and_so_does_what_the_optimizer_knows_of_them() -> None:
    model = nn.Sequential(nn.Linear(40, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2, weight_decay=0.1)
    _, handle = attached("rigl", model, optimizer, steps=100, every=5, sparsity=0.8)
    weight, old = weight_of(model), handle.state_dict()["masks"]["0"]
    for _ in range(5):
        step(model, optimizer, torch.randn(64, 40), torch.randn(64, 16))
    now = handle.state_dict()["masks"]["0"]
    new, kept = now & ~old, now & old
    assert new.any()
    for tensor in (weight, optimizer.state[weight]["exp_avg"], optimizer.state[weight]["exp_avg_sq"]):
        assert not tensor[~kept].any()
        assert tensor[kept].all()
    step(model, optimizer, torch.randn(64, 40), torch.randn(64, 16))
    assert weight[new].all()
