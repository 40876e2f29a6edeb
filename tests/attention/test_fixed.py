"""Which blocks tri_shape, strided and star keep: by their definitions, token by token, and by the density asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sparsecc import attention
from sparsecc.attention.base import Asked, Grid, Pattern
from sparsecc.attention.star import Star
from sparsecc.attention.strided import Strided
from sparsecc.attention.tri_shape import TriShape
from sparsecc.errors import RecipeError

TOKENS, BLOCK = 43, 4
BLOCKS = 11
DENSITIES = (0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
DEFAULTS = [attention.create(name) for name in ("sliding_window", "tri_shape", "strided", "star")]
either_way = pytest.mark.parametrize("causal", [False, True])


def kept(pattern: Pattern, causal: bool = False, text: int = 0, density: float = 0.5, tokens: int = TOKENS) -> Tensor:
    found = pattern.choose(Asked(Grid.line(tokens, text), 2, 0.3, density, BLOCK, causal=causal)).map
    assert torch.equal(found.keep[0], found.keep[1]) and found.orders is None
    return found.keep[0]


class Case(NamedTuple):
    """sees: by the definition, whether a query sees a key, both as numbers of tokens; a block is kept where any of its pairs is so."""

    pattern: Pattern
    sees: Callable[[int, int], bool]


def block(token: int) -> int:
    return token // BLOCK


CASES = {
    "tri_shape": Case(TriShape(8), lambda q, k: k == 0 or q == TOKENS - 1 or abs(block(q) - block(k)) <= 2),
    "tri_shape of tokens": Case(TriShape(0, 10, 5), lambda q, k: k < 10 or q >= TOKENS - 5 or block(q) == block(k)),
    "Λ": Case(TriShape(5, 1, 0), lambda q, k: k == 0 or abs(block(q) - block(k)) <= 2),
    "a window alone": Case(TriShape(4, 0, 0), lambda q, k: abs(block(q) - block(k)) <= 1),
    "wide": Case(TriShape(10**6), lambda q, k: True),
    "all are the last": Case(TriShape(0, 0, 10**6), lambda q, k: True),
    "strided": Case(Strided(11), lambda q, k: abs(block(q) - block(k)) <= 3 or (block(q) - block(k)) % 3 == 0),
    "strides without a window": Case(Strided(16, 0), lambda q, k: (block(q) - block(k)) % 4 == 0),
    "a wider window": Case(Strided(20, 7), lambda q, k: abs(block(q) - block(k)) <= 2 or (block(q) - block(k)) % 5 == 0),
    "every stride": Case(Strided(1), lambda q, k: True),
    "star": Case(Star(10), lambda q, k: k < 12 or q // 12 == k // 12),
    "star of blocks": Case(Star(1), lambda q, k: k == 0 or block(q) == block(k)),
    "one segment": Case(Star(10**6), lambda q, k: True),
}


@either_way
@pytest.mark.parametrize("text", [0, 6])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_block_is_kept_where_the_definition_lets_a_query_see_a_key(case: Case, causal: bool, text: int) -> None:
    expected = torch.zeros(BLOCKS, BLOCKS, dtype=torch.bool)
    for query in range(TOKENS):
        for key in range(TOKENS):
            if case.sees(query, key) or min(query, key) < text:
                expected[block(query), block(key)] |= not causal or block(key) <= block(query)
    assert torch.equal(kept(case.pattern, causal, text), expected)


@either_way
@pytest.mark.parametrize("tokens", [1, 4, 5, TOKENS, 130])
@pytest.mark.parametrize("pattern", DEFAULTS, ids=lambda pattern: type(pattern).__name__)
def test_without_sizes_they_grow_with_the_density_and_stay_within_it(pattern: Pattern, tokens: int, causal: bool) -> None:
    whole = int(kept(pattern, causal, density=1.0, tokens=tokens).count_nonzero())
    blocks = -(-tokens // BLOCK)
    assert whole == (blocks * (blocks + 1) // 2 if causal else blocks**2)
    before = torch.eye(blocks, dtype=torch.bool)
    for density in DENSITIES:
        keep = kept(pattern, causal, density=density, tokens=tokens)
        assert blocks <= int(keep.count_nonzero()) <= max(round(density * whole), blocks)
        assert torch.equal(keep | before, keep), "more density never takes a block away"
        before = keep


@either_way
def test_small_densities_leave_out_what_does_not_fit(causal: bool) -> None:
    diagonal, first = torch.eye(BLOCKS, dtype=torch.bool), torch.arange(BLOCKS) == 0
    full = BLOCKS * (BLOCKS + 1) // 2 if causal else BLOCKS**2
    with_sinks = diagonal | (first & torch.ones(BLOCKS, 1, dtype=torch.bool))
    with_last = with_sinks | (torch.arange(BLOCKS) == BLOCKS - 1)[:, None]
    for keep, rest in ((with_sinks, (diagonal, diagonal)), (with_last, (with_sinks, with_sinks))):
        count = int(keep.count_nonzero())
        assert torch.equal(kept(TriShape(), causal, density=count / full), keep)
        assert torch.equal(kept(TriShape(), causal, density=(count - 1) / full), rest[0])
        assert torch.equal(kept(Star(), causal, density=(count - 1) / full), rest[1])


def test_a_stride_is_near_the_square_root_of_the_blocks_and_the_window_takes_the_rest() -> None:
    keep = kept(Strided(), density=0.2, tokens=64 * BLOCK)
    strides = kept(Strided(8 * BLOCK, 0), tokens=64 * BLOCK)
    assert torch.equal(keep & strides, strides)
    at = torch.arange(64)
    distance = (at[:, None] - at).abs()
    near = keep & ~strides
    reach = int(distance[near].max())
    assert reach > 1 and keep[distance <= reach].all()
    assert int((keep | (distance <= reach + 1)).count_nonzero()) > 0.2 * 64**2
    sparse = kept(Strided(), density=0.08, tokens=64 * BLOCK)
    assert torch.equal(sparse, kept(Strided(16 * BLOCK, 0), tokens=64 * BLOCK)), "smaller densities double the stride"


def test_options_stand_behind_colons() -> None:
    assert attention.create("tri_shape:512") == TriShape(512)
    assert attention.create("tri_shape:512:128:64") == TriShape(window=512, sinks=128, last=64)
    assert attention.create("strided:1024:256") == Strided(stride=1024, window=256)
    assert attention.create("star:4096") == Star(segment=4096)
    assert [attention.create(name) for name in ("tri_shape", "strided", "star")] == [TriShape(), Strided(), Star()]


@pytest.mark.parametrize("key", ["tri_shape:x", "tri_shape:1:2:3:4", "tri_shape:1:", "star:-1", "star:1.5", "star:4:4", "strided:1:2:3"])
def test_options_that_are_not_read(key: str) -> None:
    with pytest.raises(RecipeError, match=f"^pattern '{key}': .* reads no options"):
        attention.create(key)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: TriShape(-1), "window: -1 is negative"),
        (lambda: TriShape(sinks=-3), "sinks: -3 is negative"),
        (lambda: attention.create("star:0"), "segment: 0 tokens are no segment"),
        (lambda: attention.create("strided:0"), "stride: 0 is no distance"),
        (lambda: Strided(window=4), "window: needs a stride"),
    ],
)
def test_sizes_that_cannot_be(make: Callable[[], Pattern], reason: str) -> None:
    with pytest.raises(RecipeError, match=f"^{reason}"):
        make()
