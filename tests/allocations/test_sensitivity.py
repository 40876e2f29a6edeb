from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from sparsecc.allocations.base import Limit, Share, cost_of
from sparsecc.allocations.sensitivity import Sensitivity
from sparsecc.allocations.uniform import Uniform
from sparsecc.errors import RecipeError
from tests.allocations.layers import LAYERS, kept, layer


def quadratic(name: str, gain: float, units: int = 1000, bytes_each: float = 1.0) -> Share:
    """loss = gain · s²."""
    return Share(name, (units, 1), units, lambda: torch.ones(units), lambda s: gain * s**2, lambda kept: bytes_each * kept)


def total_loss(layers: list[Share], shares: list[float]) -> float:
    return sum(each.loss(share) for each, share in zip(layers, shares, strict=True))


def test_the_sensitive_layer_stays_denser_as_lagrange_has_it() -> None:
    """Of two layers with a·s² the marginal losses are equal: s1 / s2 = a2 / a1."""
    robust, delicate = Sensitivity().allocate([quadratic("robust", 1.0), quadratic("delicate", 3.0)], 0.4, 0.0)
    assert (robust, delicate) == pytest.approx((0.6, 0.2), abs=2e-3)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9])
def test_the_total_is_exact_and_no_worse_than_uniform(sparsity: float) -> None:
    total = sum(each.units for each in LAYERS)
    shares = Sensitivity().allocate(LAYERS, sparsity, 0.0)
    assert sum(kept(LAYERS, shares)) == total - round(sparsity * total)
    assert total_loss(LAYERS, shares) <= total_loss(LAYERS, Uniform().allocate(LAYERS, sparsity, 0.0)) * (1 + 1e-3)


def test_the_best_of_all_divisions_is_found() -> None:
    """Against every division of 3 layers with 12 units each, with losses that are not convex."""
    losses = [[0, 5, 5, 5, 6, 9, 9, 9, 9, 20, 30, 40, 60], [0, 0, 0, 0, 9, 9, 10, 10, 11, 11, 12, 12, 13], [0, *range(1, 13)]]
    layers = [Share(f"l{i}", (12, 1), 12, lambda: torch.ones(12), lambda s, t=t: float(t[round(12 * s)])) for i, t in enumerate(losses)]
    for dropped in range(37):
        divisions = [n for n in itertools.product(range(13), repeat=3) if sum(n) == dropped]
        best = min(sum(losses[i][n] for i, n in enumerate(division)) for division in divisions)
        shares = Sensitivity().allocate(layers, dropped / 36, 0.0)
        assert round(12 * sum(shares)) == dropped
        assert total_loss(layers, shares) == best


def test_corners_of_a_loss_are_among_what_is_tried() -> None:
    """Steep below 1234 of 100 000 units, nearly flat above: no level of ten is there."""

    def loss(sparsity: float) -> float:
        return sparsity + 10 * max(0.0, 1234 - (1 - sparsity) * 100_000)

    layers = [replace(quadratic(name, 0.0, units=100_000), loss=loss) for name in "abc"]
    cornered = [replace(each, corners=(0, 1234, 100_000)) for each in layers]
    sparsity = 1 - 3 * 1234 / 300_000
    assert kept(cornered, Sensitivity(levels=10).allocate(cornered, sparsity, 0.0)) == [1234] * 3
    assert kept(layers, Sensitivity(levels=10).allocate(layers, sparsity, 0.0)) != [1234] * 3


def test_large_layers_are_divided_in_bins_and_yet_exactly() -> None:
    layers = [quadratic(f"l{i}", 1.0 + i, units=1_000_000 + 7 * i) for i in range(20)]
    shares = Sensitivity().allocate(layers, 0.5, 0.0)
    assert sum(round(share * each.units) for share, each in zip(shares, layers, strict=True)) == round(0.5 * sum(e.units for e in layers))
    assert shares[-5:] == pytest.approx([shares[-1] * 20 / (i + 1) for i in range(15, 20)], abs=1.1e-2)  # Lagrange, where no layer is at 1


def test_zeros_that_are_there_already_go_first() -> None:
    free = replace(quadratic("free", 1.0), loss=lambda s: max(0.0, s - 0.4321))
    shares = Sensitivity().allocate([free, quadratic("other", 1e-3)], 0.2160, 0.0)
    assert shares == pytest.approx([0.432, 0.0], abs=1e-9)


def test_the_floor_holds() -> None:
    shares = Sensitivity().allocate([quadratic("worthless", 0.0), quadratic("dear", 1.0)], 0.5, 0.1)
    assert shares == pytest.approx([0.9, 0.1])


def test_bytes_go_where_they_save_most() -> None:
    """The same loss costs a layer twice the bytes: it gives up more of its weights."""
    layers = [quadratic("cheap", 1.0), quadratic("dear", 1.0, bytes_each=2.0)]
    shares = Sensitivity().within(layers, Limit(1500))
    assert cost_of(layers, shares) <= 1500
    assert cost_of(layers, shares) > 1497
    assert shares == pytest.approx([0.3, 0.6], abs=2e-2)
    assert total_loss(layers, shares) == pytest.approx(0.3**2 + 0.6**2, rel=2e-3)
    assert total_loss(layers, shares) < total_loss(layers, Uniform().within(layers, Limit(1500)))


def test_a_layer_that_saves_no_byte_below_some_sparsity_stays_whole_or_goes_beyond() -> None:
    """csr takes more than the dense bytes up to a third of zeros."""
    layers = [replace(quadratic(name, 1.0), cost=lambda kept: min(1000.0, 1.5 * kept)) for name in "abc"]
    shares = Sensitivity().within(layers, Limit(2800))
    assert cost_of(layers, shares) <= 2800
    assert sorted(shares)[:2] == [0.0, 0.0]
    assert max(shares) == pytest.approx(1 - 800 / 1500, abs=2e-3)


def test_a_budget_that_cannot_be_met_names_the_nearest() -> None:
    layers = [layer("a", 100, 100), layer("b", 100, 100)]
    with pytest.raises(RecipeError, match=r"^budget: 1999 bytes cannot be met, the nearest that can is 2000$"):
        Sensitivity().within(layers, Limit(1999))
    assert sum(kept(layers, Sensitivity().within(layers, Limit(2000)))) == 1000
    with pytest.raises(RecipeError, match=r"the nearest that can is 8000$"):
        Sensitivity().within(layers, Limit(1999), floor=0.2)


def test_what_a_few_milliseconds_allow() -> None:
    """Costs far below one are divided as finely as large ones."""
    layers = [
        replace(quadratic("cheap", 1.0), cost=lambda kept: 1e-3 * kept),
        replace(quadratic("dear", 1.0), cost=lambda kept: 2e-3 * kept),
    ]
    shares = Sensitivity().within(layers, Limit(1.5, "milliseconds"))
    assert 1.497 < cost_of(layers, shares) <= 1.5
    assert shares == pytest.approx([0.3, 0.6], abs=2e-2)
