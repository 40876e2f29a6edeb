from __future__ import annotations

import pytest

from sparsecc.allocations.erk import Erk
from tests.allocations.layers import LAYERS, kept, layer


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_the_total_is_exact(sparsity: float) -> None:
    total = sum(each.units for each in LAYERS)
    assert sum(kept(LAYERS, Erk().allocate(LAYERS, sparsity, 0.0))) == total - round(sparsity * total)


def test_shares_follow_the_formula() -> None:
    layers = [layer("a", 100, 100), layer("b", 200, 400)]
    a, b = (1 - share for share in Erk().allocate(layers, 0.9, 0.0))
    assert a / b == pytest.approx((200 / 10_000) / (600 / 80_000), rel=1e-3)


def test_a_convolution_counts_its_kernel() -> None:
    layers = [layer("linear", 64, 64), layer("conv", 64, 64, 3, 3)]
    linear, conv = (1 - share for share in Erk().allocate(layers, 0.9, 0.0))
    assert linear / conv == pytest.approx((128 / 4096) / (134 / 36_864), rel=1e-2)


def test_capped_at_dense_and_at_the_floor() -> None:
    shares = Erk().allocate(LAYERS, 0.5, 0.0)
    assert shares[0] == 0.0  # the narrow layer stays dense
    assert min(shares) >= 0
    floored = Erk().allocate(LAYERS, 0.9, 0.08)
    assert all(1 - share >= 0.08 - 1 / each.units for share, each in zip(floored, LAYERS, strict=True))


def test_blocks_are_counted_whole() -> None:
    layers = [layer("a", 64, 32, unit=4), layer("b", 128, 128, unit=4)]
    assert sum(kept(layers, Erk().allocate(layers, 0.7, 0.0))) == 512 + 4096 - round(0.7 * 4608)
