from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from models._attention_calls import AttentionCalls, masked, spread
from sparsecc.attention.base import BlockMap, Grid
from sparsecc.ops.block_attention.torch import reference
from tests.tolerance import assert_close

GRID = Grid(2, 3, 4, text_tokens=3)
BLOCK = 5


def inputs() -> list[torch.Tensor]:
    return list(torch.randn(3, 1, 2, GRID.tokens, 8, generator=torch.Generator().manual_seed(0)))


def test_masks_spread_from_a_map_are_block_attention() -> None:
    blocks = GRID.blocks(BLOCK)
    keep = (torch.rand(2, blocks, blocks, generator=torch.Generator().manual_seed(1)) < 0.4) | torch.eye(blocks, dtype=torch.bool)
    keep[:, 0] = keep[:, :, 0] = True
    found = BlockMap(GRID, BLOCK, torch.tensor([3, 0], dtype=torch.uint8), keep)
    q, k, v = inputs()
    with masked([spread(found.keep, found.places(), BLOCK)]):
        one = scaled_dot_product_attention(q, k, v)
    assert_close(one, reference(q, k, v, found, 8**-0.5))
    assert not torch.allclose(one, scaled_dot_product_attention(q, k, v))


def test_calls_are_counted_by_sites() -> None:
    q, k, v = inputs()
    seen: list[int] = []

    def attend(site: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(site)
        return scaled_dot_product_attention(q, k, v)

    with AttentionCalls(2, attend):
        outputs = [scaled_dot_product_attention(q, k, v) for _ in range(5)]
    assert seen == [0, 1, 0, 1, 0]  # two calls are one run of the model
    assert_close(outputs[0], scaled_dot_product_attention(q, k, v))


def test_other_attention_is_refused() -> None:
    q, k, v = inputs()
    with masked([torch.ones(2, GRID.tokens, GRID.tokens, dtype=torch.bool)]), pytest.raises(TypeError, match="causal"):
        scaled_dot_product_attention(q, k, v, is_causal=True)
