from __future__ import annotations

import pytest
import torch

from sparsecc.allocations.base import HIGHEST, Limit, Share, cost_of
from sparsecc.allocations.erk import Erk
from sparsecc.allocations.uniform import Uniform
from sparsecc.errors import RecipeError, SparseccError
from tests.allocations.layers import LAYERS, kept, layer


def test_a_budget_is_used_up_to_the_last_unit() -> None:
    shares = Erk().within(LAYERS, Limit(10_001))
    assert sum(kept(LAYERS, shares)) == 5000
    assert shares == Erk().allocate(LAYERS, 1 - 5000 / sum(each.units for each in LAYERS), 0.25 * (1 - shares[1]))


def test_a_floor_bounds_what_a_budget_can_ask_for() -> None:
    layers = [layer("a", 100, 100), layer("b", 100, 100)]
    assert Uniform().within(layers, Limit(8000), floor=0.2) == pytest.approx([0.8, 0.8], abs=1e-4)
    with pytest.raises(RecipeError, match=r"^budget: 7000 bytes cannot be met, the nearest that can is 8000$"):
        Uniform().within(layers, Limit(7000), floor=0.2)
    with pytest.raises(RecipeError, match=r"the nearest that can is 400$"):
        Uniform().within(layers, Limit(100))
    assert Uniform().within(layers, Limit(400)) == pytest.approx([HIGHEST] * 2, abs=1e-4)


def test_what_costs_no_bytes_is_not_pruned() -> None:
    layers = [layer("a", 100, 100)]
    assert Uniform().within(layers, Limit(20_000)) == [0.0]
    assert cost_of(layers, Uniform().within(layers, Limit(19_999))) == 19_998


def test_what_is_not_known_of_a_layer_says_so() -> None:
    bare = Share("a", (2, 2), 4, lambda: torch.ones(4))
    with pytest.raises(SparseccError, match="not known of a layer"):
        Uniform().within([bare], Limit(3))
