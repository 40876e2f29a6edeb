from __future__ import annotations

import pytest
import torch
from torch import nn

from models._transformer import Block, initialized


def test_a_block_keeps_the_shape_and_a_causal_one_the_past() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 16)
    later = x.clone()
    later[:, 4:] = torch.randn(2, 2, 16)
    for causal in (True, False):
        block = initialized(Block(16, 4, causal)).eval()
        before, after = block(x), block(later)
        assert before.shape == x.shape
        assert torch.allclose(before[:, :4], after[:, :4]) is causal


def test_what_adds_to_the_stream_begins_smaller() -> None:
    blocks = [Block(64, 4, False) for _ in range(8)]
    initialized(nn.ModuleList(blocks))
    assert float(blocks[0].down.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.1)
    assert float(blocks[0].up.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not blocks[0].up.bias.any() and bool((blocks[0].mlp_norm.weight == 1).all())
