"""Which blocks tri_shape and star keep, by tokens and by density."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc import attention
from sparsecc.attention.base import Asked, Grid, Pattern
from sparsecc.attention.star import Star
from sparsecc.attention.tri_shape import TriShape
from sparsecc.errors import RecipeError

TOKENS, BLOCK = 43, 4  # 11 blocks


def kept(pattern: Pattern, causal: bool = False, text: int = 0, density: float = 0.5) -> Tensor:
    found = pattern.choose(Asked(Grid.line(TOKENS, text), 2, 0.3, density, BLOCK, causal=causal)).map
    assert torch.equal(found.keep[0], found.keep[1]) and found.orders is None
    return found.keep[0]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("window", "text"), [(0, 0), (5, 0), (9, 6), (10**6, 0)])
def test_a_tri_shape_has_sinks_a_window_and_whole_last_rows(causal: bool, window: int, text: int) -> None:
    keep, reach = kept(TriShape(window), causal, text), -(-window // BLOCK)
    for query in range(11):
        for key in range(11):
            is_text = min(query, key) * BLOCK < text
            seen = abs(query - key) <= reach or key == 0 or query == 10 or is_text
            assert keep[query, key] == (seen and not (causal and key > query))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("segment", "size"), [(1, 1), (4, 1), (5, 2), (12, 3), (10**6, 11)])
def test_a_star_has_segments_and_an_anchor(causal: bool, segment: int, size: int) -> None:
    keep = kept(Star(segment), causal)
    for query in range(11):
        for key in range(11):
            seen = query // size == key // size or key < size
            assert keep[query, key] == (seen and not (causal and key > query))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pattern", [TriShape(), Star()], ids=["tri_shape", "star"])
def test_without_a_size_it_is_the_widest_within_the_density(pattern: Pattern, causal: bool) -> None:
    whole = int(kept(pattern, causal, density=1.0).count_nonzero())
    assert whole == (66 if causal else 121)
    before = kept(pattern, causal, density=0.01)
    for density in (0.3, 0.5, 0.7, 0.9):
        keep = kept(pattern, causal, density=density)
        assert int(keep.count_nonzero()) <= max(round(density * whole), int(before.count_nonzero()))
        assert (keep | before).equal(keep), "more density never takes a block away"
        before = keep


@pytest.mark.parametrize("name", ["tri_shape:x", "star:-1", "star:1.5"])
def test_options_that_are_not_read(name: str) -> None:
    with pytest.raises(RecipeError, match="reads no options"):
        attention.create(name)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(RecipeError, match="window: -1 is negative"):
        TriShape(-1)
    with pytest.raises(RecipeError, match="segment: 0 is no number of tokens"):
        attention.create("star:0")
