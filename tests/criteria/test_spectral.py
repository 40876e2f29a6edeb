from __future__ import annotations

import pytest
import torch

from sparsecc.criteria.base import project_of
from sparsecc.criteria.magnitude import Magnitude
from sparsecc.criteria.random import Random
from sparsecc.criteria.spectral import Spectral
from sparsecc.patterns import parse

UNSTRUCTURED = project_of(parse("unstructured"))


def test_weights_that_a_draw_would_surely_take_stay() -> None:
    """Six of ten: three have more than their share of the squares, of the seven others any three."""
    weight, drawn = torch.tensor([[100.0, -50.0, 20.0, *[1.0] * 7]]), torch.zeros(10)
    for seed in range(200):
        keep = Spectral().choose(weight, UNSTRUCTURED, 0.4, {}, seed).keep[0]
        assert keep[:3].all()
        assert keep.sum() == 6
        drawn += keep
    assert drawn[3:].min() > 0.6 * 200 * 3 / 7
    assert drawn[3:].max() < 1.4 * 200 * 3 / 7


def test_odds_of_the_others_are_their_squares() -> None:
    """One of three, none of them sure to stay."""
    weight, drawn = torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(3)
    for seed in range(2000):
        score = Spectral().score(weight, {}, seed)
        drawn[score.argmax()] += 1
    torch.testing.assert_close(drawn / 2000, torch.tensor([1.0, 4.0, 9.0]) / 14, atol=0.03, rtol=0)


@pytest.mark.parametrize(("pattern", "sure"), [("2x1", (slice(0, 2), 3)), ("1:4", (1, 6))])
def test_blocks_and_groups_have_odds_of_their_own(pattern: str, sure: tuple[slice | int, int]) -> None:
    weight = torch.ones(4, 8)
    weight[sure] = 1000
    masks = [Spectral().choose(weight, project_of(parse(pattern)), 0.75, {}, seed).keep for seed in range(20)]
    assert all(mask[sure].all() for mask in masks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 15


def test_the_spectrum_is_nearer_than_at_random() -> None:
    """Few large weights, as in trained layers."""
    weight = torch.randn(96, 96, generator=torch.Generator().manual_seed(0)) ** 3

    def apart(criterion: Spectral | Random | Magnitude) -> float:
        keep = criterion.choose(weight, UNSTRUCTURED, 0.7, {}, 1).keep
        return float(torch.linalg.matrix_norm(weight - weight * keep, 2))

    assert apart(Spectral()) < 0.5 * apart(Random())


def test_the_seed_alone_decides_and_zeros_are_never_drawn() -> None:
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    first, second, other = (Spectral().choose(weight, UNSTRUCTURED, 0.5, {}, seed).keep for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(Spectral().choose(weight * first, UNSTRUCTURED, 0.5, {}, 9).keep, first)
