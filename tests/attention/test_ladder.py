"""Steps of a pattern at rising densities, and heads put together from several of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models._locality import SCALE, planted
from sparsecc.attention import create
from sparsecc.attention.base import Asked, Choice, Grid, Pattern, least_density, required
from sparsecc.attention.ladder import DENSITIES, Ladder, assembled, choose

GRID, BLOCK, ORDERS = Grid(3, 5, 7, text_tokens=4), 8, (5, 0, 2)
ASKED = Asked(GRID, len(ORDERS), SCALE, 0.5, BLOCK, samples=[planted(GRID, ORDERS)])
BACKWARDS = torch.cat([torch.arange(4), torch.arange(4, GRID.tokens).flip(0)])  # text stays
PATTERNS = {"paro": ASKED, "paro:all": ASKED, "paro:raster": ASKED, "sliding_window": replace(ASKED, grid=Grid.line(GRID.tokens, 4))}
every_pattern = pytest.mark.parametrize("name", PATTERNS)


def pattern(name: str) -> Pattern:
    return create(name)


@every_pattern
def test_each_step_is_what_the_pattern_chooses_and_the_last_is_dense(name: str) -> None:
    asked = PATTERNS[name]
    ladder = Ladder.of(pattern(name), replace(asked, max_error=0.0))
    least = least_density(asked.grid, BLOCK)
    assert ladder.densities == (least, *(density for density in DENSITIES if density > least), 1.0)
    assert ladder.full == asked.grid.blocks(BLOCK) ** 2
    assert ladder.needed == int(required(asked.grid, BLOCK).count_nonzero())
    assert ladder.free == ladder.full - ladder.needed
    for step, density in enumerate(ladder.densities[:-1]):
        found, direct = ladder.choice([step] * 3), pattern(name).choose(replace(asked, density=density))
        assert torch.equal(found.map.keep, direct.map.keep)
        assert torch.equal(found.map.places(), direct.map.places())
        assert found.error is not None and direct.error is not None and torch.equal(found.error, direct.error)
        assert ladder.error is not None and torch.equal(ladder.error[step].float(), direct.error)
        assert ladder.kept[step].tolist() == direct.map.keep.flatten(1).sum(1).tolist()
    dense = ladder.choice([len(ladder.densities) - 1] * 3)
    assert dense.map.dense_heads == [0, 1, 2]
    assert dense.error is not None and dense.error.tolist() == [0, 0, 0]


def test_heads_stand_at_steps_of_their_own() -> None:
    ladder = Ladder.of(pattern("paro"), ASKED)
    steps = [2, len(ladder.densities) - 1, 0]
    found = ladder.choice(steps)
    for head, step in enumerate(steps):
        alone = ladder.choice([step] * 3)
        assert torch.equal(found.map.keep[head], alone.map.keep[head])
        assert torch.equal(found.map.places()[head], alone.map.places()[head])


def test_heads_with_an_order_of_the_axes_stand_beside_heads_whose_order_is_given_token_by_token() -> None:
    axes = pattern("paro").choose(ASKED)
    tokens = Choice(replace(axes.map, orders=axes.map.places()[:, BACKWARDS].to(torch.int32)), axes.lost, axes.error)
    plain = Choice(replace(axes.map, orders=None), axes.lost, axes.error)
    found = assembled([(axes, 0), (tokens, 1), (plain, 2)]).map
    assert found.orders is not None and found.orders.dtype == torch.int32
    for head, choice in enumerate((axes, tokens, plain)):
        assert torch.equal(found.places()[head], choice.map.places()[head])
    assert assembled([(plain, 1), (plain, 0)]).map.orders is None


def test_each_head_has_the_density_that_is_asked_for_it() -> None:
    densities = [0.4, 0.7, 0.4]
    found = choose(pattern("paro"), ASKED, densities)
    blocks = GRID.blocks(BLOCK) ** 2
    assert found.map.keep.flatten(1).sum(1).tolist() == [round(density * blocks) for density in densities]
    for head, density in enumerate(densities):
        alone = pattern("paro").choose(replace(ASKED, density=density))
        assert torch.equal(found.map.keep[head], alone.map.keep[head])
        assert found.error is not None and alone.error is not None and found.error[head] == alone.error[head]
    assert torch.equal(choose(pattern("paro"), ASKED, [0.4] * 3).map.keep, pattern("paro").choose(replace(ASKED, density=0.4)).map.keep)


def test_some_heads_alone_also_where_keys_are_shared() -> None:
    q, k, v = (torch.randn(1, heads, GRID.tokens, 8) for heads in (4, 2, 2))
    asked = Asked(Grid.line(GRID.tokens), 4, 1.0, 0.5, BLOCK, samples=[type(ASKED.samples[0])(q, k, v)])
    [sample] = asked.of([1, 2]).samples
    assert asked.of([1, 2]).heads == 2
    assert torch.equal(sample.q, q[:, 1:3])
    assert torch.equal(sample.k, k) and torch.equal(sample.v, v)


def test_a_loss_falls_from_all_that_may_go_to_none_through_the_steps() -> None:
    ladder = Ladder.of(pattern("paro"), ASKED)
    assert ladder.error is not None and ladder.power is not None
    share = ladder.power / ladder.power.sum()
    for head in range(3):
        for step, error in enumerate(ladder.error[:, head].tolist()):
            gone = (ladder.full - int(ladder.kept[step, head])) / ladder.free
            assert ladder.loss(head, gone) == pytest.approx(error**2 * float(share[head]), rel=1e-6, abs=1e-12)
        losses = [ladder.loss(head, i / 50) for i in range(51)]
        assert losses == sorted(losses)
        assert losses[0] == pytest.approx(0, abs=1e-9)
    steps = [1, 2, 3]
    assert ladder.site_error(steps) == pytest.approx(
        sum(ladder.loss(head, (ladder.full - int(ladder.kept[step, head])) / ladder.free) for head, step in enumerate(steps))
    )


def test_the_steps_of_a_density_and_of_numbers_of_blocks() -> None:
    ladder = Ladder.of(pattern("paro"), ASKED)
    assert ladder.at(0.0) == [0, 0, 0]
    assert ladder.densities[ladder.at(0.3)[0]] == 0.3
    assert ladder.densities[ladder.at(0.95)[0]] == 1.0
    step = ladder.at(0.5)[0]
    kept = int(ladder.kept[step, 0])
    assert ladder.nearest([kept, kept + 1, ladder.full]) == [step, step, len(ladder.densities) - 1]


def test_without_samples_there_are_maps_and_no_losses() -> None:
    ladder = Ladder.of(pattern("sliding_window"), replace(PATTERNS["sliding_window"], samples=[], causal=True))
    assert (ladder.error, ladder.power) == (None, None)
    found = ladder.choice(ladder.at(0.5))
    assert (found.lost, found.error, found.map.causal) == (None, None, True)
    assert found.map.density <= 0.5
    assert assembled([(found, 0), (found, 2)]).map.heads == 2
