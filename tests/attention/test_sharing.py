"""Laws of blocks that are shared out among heads, layers and parts of the steps, over random ladders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.attention.ladder import Ladder
from sparsecc.attention.sharing import Kept, Measured, equally, least, lost, shared_out
from sparsecc.attention.steps import Part, parts_of

FULL, NEEDED = 100, 15


def ladder(generator: np.random.Generator, heads: int, full: int = FULL, scale: float = 1.0) -> Ladder:
    """Errors fall from step to step, not evenly."""
    kept = np.unique(np.linspace(NEEDED, full, 8).round().astype(int))
    falls = generator.exponential(size=(len(kept), heads)) ** 3
    errors = scale * (falls.sum(0) - falls.cumsum(0)) / falls.sum(0)
    errors[-1] = 0
    every = torch.from_numpy(kept)[:, None].expand(-1, heads).clone()
    power = torch.from_numpy(generator.uniform(0.5, 2, heads))
    return Ladder(tuple((kept / full).tolist()), every, torch.from_numpy(errors), power, NEEDED, ())


def measured(seed: int, parts: Sequence[Part], heads: Sequence[int] = (3, 1)) -> list[Measured]:
    generator = np.random.default_rng(seed)
    return [
        Measured(f"layer {site}", ladder(generator, count, FULL + 20 * site), float(generator.exponential()), part)
        for part in parts
        for site, count in enumerate(heads)
    ]


def density(of: Sequence[Measured], kept: Kept) -> float:
    """Over all steps, weighted by how many they are."""
    computed = sum(one.weight * sum(heads) for one, heads in zip(of, kept, strict=True))
    return computed / sum(one.weight * one.ladder.full * one.ladder.heads for one in of)


some_parts = st.sampled_from([parts_of(1), parts_of(2), parts_of(3), parts_of([(0, 0.2), (0.2, 0.5), (0.5, 1)]), parts_of([(0.3, 0.9)])])
some_density = st.floats(0.2, 1.0)


@given(st.integers(0, 999), some_parts, some_density)
def test_all_together_keep_at_most_the_density_and_nearly_all_of_it(seed: int, parts: Sequence[Part], asked: float) -> None:
    given_ = measured(seed, parts)
    kept = shared_out("sensitivity", given_, asked)
    assert asked - 0.02 < density(given_, kept) <= asked + 1e-9
    assert all(NEEDED <= blocks <= one.ladder.full for one, heads in zip(given_, kept, strict=True) for blocks in heads)


@given(st.integers(0, 999), some_parts, some_density)
def test_no_more_is_lost_than_with_the_same_everywhere(seed: int, parts: Sequence[Part], asked: float) -> None:
    given_ = measured(seed, parts)
    assert lost(given_, shared_out("sensitivity", given_, asked)) <= lost(given_, equally(given_, asked))


@given(st.integers(0, 999), some_density)
def test_parts_that_lose_the_same_keep_the_same(seed: int, asked: float) -> None:
    once = measured(seed, [(0.0, 0.25)])
    parts = [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)]
    given_ = [Measured(one.site, one.ladder, one.gain, part) for part in parts for one in once]
    kept = shared_out("sensitivity", given_, asked)
    assert kept[:2] == kept[2:4] == kept[4:]
    assert density(given_, kept) <= asked + 1e-9


@given(st.integers(0, 999))
def test_a_part_that_loses_more_keeps_more(seed: int) -> None:
    once = measured(seed, [(0.0, 0.5)])
    given_ = [Measured(one.site, one.ladder, gain * one.gain, part) for gain, part in ((1, (0.0, 0.5)), (1e4, (0.5, 1.0))) for one in once]
    kept = shared_out("sensitivity", given_, 0.4)
    early, late = (density(given_[place : place + 2], kept[place : place + 2]) for place in (0, 2))
    assert early < 0.4 < late


def test_a_short_part_is_cheap_and_counts_little() -> None:
    """One step in ten that needs every block has them, for a tenth of what they would cost in all."""
    generator = np.random.default_rng(0)
    steep = ladder(generator, 2)
    given_ = [Measured("a", steep, 1e6, (0.0, 0.1)), Measured("a", ladder(generator, 2, scale=0.01), 1.0, (0.1, 1.0))]
    first, second = shared_out("sensitivity", given_, 0.3)
    assert first == [FULL, FULL]
    assert sum(second) / 2 / FULL == pytest.approx((0.3 - 0.1) / 0.9, abs=0.01)


def test_nothing_to_share_out() -> None:
    assert shared_out("sensitivity", [], 0.5) == []
    [one] = measured(0, parts_of(1), heads=(2,))
    assert shared_out("sensitivity", [one], 0.01) == [[NEEDED, NEEDED]] and least([one]) == NEEDED / FULL
    assert shared_out("sensitivity", [one], 1.0) == [[FULL, FULL]]


def test_many_heads_are_shared_out_in_seconds() -> None:
    """A quarter of what a large video model has: 10 layers of 48 heads, in four parts, over 139² blocks."""
    generator = np.random.default_rng(0)
    one = ladder(generator, 48, full=139**2)
    given_ = [Measured(f"{site}", one, float(generator.exponential()), part) for part in parts_of(4) for site in range(10)]
    kept = shared_out("sensitivity", given_, 0.3)
    assert lost(given_, kept) < lost(given_, equally(given_, 0.3))
    assert density(given_, kept) == pytest.approx(0.3, rel=1e-4) and density(given_, kept) <= 0.3 + 1e-9
