from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.errors import RecipeError
from sparsecc.train.sr_ste import SrSte
from tests.train.problem import attached, weight_of


def test_one_step_is_the_papers() -> None:
    """w ← w - η (∂L/∂w̃ + λ (1 - keep) w), all weights at once."""
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    start = weight_of(model).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _, handle = attached("sr_ste", model, optimizer, pattern="2:4", decay=0.5)
    keep = handle.state_dict()["masks"]["0"]
    assert torch.equal(weight_of(model), start * keep)
    x = torch.randn(5, 8)
    for _ in range(2):  # two backward passes for one step: the pull counts once
        (model(x).square().sum() / 2).backward()
    optimizer.step()
    gradient = 2 * (x @ (start * keep).T).T @ x
    expected = start - 0.1 * (gradient + 0.5 * start * ~keep)
    torch.testing.assert_close(dict(model.named_parameters())["0.parametrizations.weight.original"], expected)


def test_masks_follow_the_weights() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    _, handle = attached("sr_ste", model, optimizer, pattern="2:4", decay=0.0)
    weight = dict(model.named_parameters())["0.parametrizations.weight.original"]
    keep = handle.state_dict()["masks"]["0"]
    weight.grad = torch.where(keep, weight.detach(), 0.0)  # those that were kept become zero
    optimizer.step()
    assert torch.equal(handle.state_dict()["masks"]["0"], ~keep)


def test_dense_until_it_begins() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _, handle = attached("sr_ste", model, optimizer, pattern="2:4", begin=2)
    seen = []
    for _ in range(3):
        model(torch.randn(5, 8)).square().sum().backward()
        optimizer.step()
        seen.append(handle.layers[0].sparsity)
    assert seen == [0.0, 0.5, 0.5]


def test_a_decay_that_cannot_be() -> None:
    with pytest.raises(RecipeError, match=r"^decay: -0\.1 is negative"):
        SrSte(steps=10, decay=-0.1)
