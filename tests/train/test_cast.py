from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.errors import RecipeError
from sparsecc.train.cast import Cast
from tests.train.problem import attached

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
KEEP = torch.tensor([[False, False, True, True]])


def test_masked_weights_fade_in_the_forward_pass_and_so_does_their_gradient() -> None:
    method = Cast(steps=100, end=80, pattern="2:4")
    for step, flow in ((0, 1.0), (20, 0.75), (80, 0.0), (100, 0.0)):
        weight = WEIGHT.clone().requires_grad_()
        seen = method.seen(weight, KEEP, step)
        seen.sum().backward()
        torch.testing.assert_close(seen.detach(), torch.where(KEEP, WEIGHT, flow * WEIGHT))
        torch.testing.assert_close(weight.grad, torch.where(KEEP, 1.0, flow))


def test_only_masked_weights_decay_ever_more() -> None:
    method = Cast(steps=100, end=80, decay=0.1)
    assert not method.pull(WEIGHT, KEEP, 0).any()
    torch.testing.assert_close(method.pull(WEIGHT, KEEP, 40), torch.tensor([[0.05, -0.05, 0.0, 0.0]]))


def test_nothing_jumps_at_the_end() -> None:
    model = nn.Sequential(nn.Linear(16, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    _, handle = attached("cast", model, optimizer, pattern="2:4")
    x = torch.randn(5, 16)
    assert torch.equal(
        model(x), nn.functional.linear(x, model.get_parameter("0.parametrizations.weight.original"), model.get_parameter("0.bias"))
    )
    for _ in range(40):
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    before = model(x)
    handle.finish()
    assert torch.equal(model(x), before)


def test_a_decay_that_cannot_be() -> None:
    with pytest.raises(RecipeError, match=r"^decay: -1\.0 is negative"):
        Cast(steps=10, decay=-1.0)
