from __future__ import annotations

import pytest
import torch

from sparsecc.allocations.base import Share
from sparsecc.allocations.global_ import Global
from tests.allocations.layers import LAYERS, kept


@pytest.mark.parametrize("floor", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_the_total_is_exact_and_the_floor_holds(sparsity: float, floor: float) -> None:
    total = sum(each.units for each in LAYERS)
    counts = kept(LAYERS, Global().allocate(LAYERS, sparsity, floor))
    assert sum(counts) == total - round(sparsity * total)
    assert all(count >= int(floor * each.units) for count, each in zip(counts, LAYERS, strict=True))


def test_without_a_floor_the_weak_layer_collapses_and_with_one_it_does_not() -> None:
    assert kept(LAYERS, Global().allocate(LAYERS, 0.8, 0.0))[3] == 0
    assert kept(LAYERS, Global().allocate(LAYERS, 0.8, 0.05))[3] == int(0.05 * 1024)


def test_one_threshold() -> None:
    layers = [Share("a", (2, 2), 4, lambda: torch.tensor([1.0, 2, 3, 4])), Share("b", (2, 2), 4, lambda: torch.tensor([5.0, 6, 0, 7]))]
    assert Global().allocate(layers, 0.5, 0.0) == [0.75, 0.25]


def test_ties_go_to_the_earlier_layer() -> None:
    layers = [Share(name, (2, 2), 4, lambda: torch.ones(4)) for name in "ab"]
    assert Global().allocate(layers, 0.5, 0.0) == [0.0, 1.0]
