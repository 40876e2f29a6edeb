"""Which blocks a window keeps, by tokens and by density, and that what comes out is a plainly masked softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc import attention
from sparsecc.attention.base import Asked, BlockMap, Grid, Sample
from sparsecc.attention.sliding_window import SlidingWindow
from sparsecc.errors import RecipeError
from sparsecc.ops.block_attention.torch import reference
from tests.tolerance import assert_close

TOKENS, BLOCK, HEADS, DIM = 43, 4, 4, 8


def chosen(window: int | None, causal: bool = False, text: int = 0, density: float = 0.5, tokens: int = TOKENS) -> BlockMap:
    return SlidingWindow(window).choose(Asked(Grid.line(tokens, text), HEADS, 0.3, density, BLOCK, causal=causal)).map


def visible(window: int, causal: bool, text: int) -> Tensor:
    """bool[tokens, tokens]: the same window, token by token."""
    seen = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    for query in range(TOKENS):
        for key in range(TOKENS):
            blocks = abs(query // BLOCK - key // BLOCK)
            is_global = min(query // BLOCK, key // BLOCK) * BLOCK < text
            seen[query, key] = (blocks <= -(-window // BLOCK) or is_global) and not (causal and key > query)
    return seen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("window", "text"), [(0, 0), (1, 0), (4, 0), (5, 3), (9, 5), (10**6, 0)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_it_is_a_masked_softmax(causal: bool, window: int, text: int, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(window)
    q, k, v = (torch.randn(2, heads, TOKENS, DIM, generator=generator) for heads in (HEADS, kv_heads, kv_heads))
    found, seen = chosen(window, causal, text), visible(window, causal, text)
    wide = [x.double().repeat_interleave(HEADS // kv_heads, 1) for x in (k, v)]
    oracle = (0.3 * q.double() @ wide[0].mT).masked_fill(~seen, -torch.inf).softmax(-1) @ wide[1]
    assert_close(reference(q, k, v, found, 0.3), oracle.float())
    at = torch.arange(TOKENS)
    near = ((at[:, None] - at).abs() <= window) & (~torch.tensor(causal) | (at[:, None] >= at))
    assert seen[near].all(), "each token sees at least its window"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_without_a_window_it_is_the_widest_within_the_density(causal: bool, density: float) -> None:
    found, least = chosen(None, causal, density=density), chosen(0, causal)
    assert found.density <= max(density, least.density)
    reach = int(found.keep[0, :, 0].count_nonzero()) - 1
    wider = chosen((reach + 1) * BLOCK, causal)
    assert wider.density > density or found.density == 1
    assert (found.density == 1) == (density == 1)


def test_one_block_is_all_of_them() -> None:
    assert chosen(0, tokens=3).density == chosen(None, True, tokens=3, density=0.1).density == 1


def test_samples_say_what_is_lost() -> None:
    sample = Sample(*(torch.zeros(1, HEADS, 8, DIM) for _ in range(3)))
    found = SlidingWindow(0).choose(Asked(Grid.line(8), HEADS, 1.0, 0.5, 4, samples=[sample]))
    assert found.lost is not None and found.lost.tolist() == [0.5] * HEADS


def test_its_options_stand_behind_a_colon() -> None:
    assert attention.create("sliding_window") == SlidingWindow()
    assert attention.create("sliding_window:512") == SlidingWindow(512)
    for key in ("sliding_window:-1", "sliding_window:4:4", "sliding_window:x", "sliding_window:1.5"):
        with pytest.raises(RecipeError, match=f"^pattern '{key}': .* reads no options"):
            attention.create(key)
    with pytest.raises(RecipeError, match="window: -1 is negative"):
        SlidingWindow(-1)
