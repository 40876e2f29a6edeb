from __future__ import annotations

import pytest
import torch

from sparsecc.allocations.base import Share
from sparsecc.allocations.owl import Owl


def layer(name: str, outliers: int, units: int = 1000) -> Share:
    scores = torch.ones(units)
    scores[:outliers] = 100.0
    return Share(name, (units, 1), units, lambda: scores)


def test_outliers_stay_and_the_rest_makes_up_for_it() -> None:
    few, some, many = (1 - share for share in Owl().allocate([layer("few", 0), layer("some", 10), layer("many", 20)], 0.5, 0.0))
    assert (few, some, many) == pytest.approx((0.42, 0.5, 0.58), abs=2e-3)


def test_layers_alike_are_pruned_alike() -> None:
    assert Owl().allocate([layer("a", 5), layer("b", 5)], 0.7, 0.0) == pytest.approx([0.7, 0.7], abs=1e-3)


def test_the_floor_holds() -> None:
    shares = Owl().allocate([layer("few", 0), layer("many", 20)], 0.95, 0.04)
    assert 1 - shares[0] == pytest.approx(0.04)
    assert sum(shares) == pytest.approx(1.9)
