"""What holds for every allocation, whatever the layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecc.allocations.base import Allocation, Limit, Share, cost_of
from sparsecc.errors import RecipeError
from tests.laws.members import ALLOCATIONS

every_allocation = pytest.mark.parametrize("allocation", ALLOCATIONS.values(), ids=ALLOCATIONS.keys())
SHAPES = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6)


def layers_of(shapes: list[tuple[int, int]], seed: int) -> list[Share]:
    """Scores of few distinct values, so that there are ties; three bytes a unit, but never more than two and a half for all."""
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(0, 4, (rows * cols,), generator=generator).float() for rows, cols in shapes]
    return [
        Share(f"layer{i}", shape, len(score), lambda s=score: s, partial(lost, score), partial(size, len(score)))
        for i, (shape, score) in enumerate(zip(shapes, scores, strict=True))
    ]


def lost(scores: Tensor, sparsity: float) -> float:
    return float(scores.sort().values[: round(sparsity * len(scores))].sum())


def size(units: int, kept: int) -> float:
    return 4 + min(3 * kept, 2.5 * units)


@every_allocation
@given(shapes=SHAPES, seed=st.integers(0, 99), sparsity=st.floats(0, 0.99), share=st.floats(0, 1))
def test_every_layer_within_its_bounds_and_the_total_as_asked(
    allocation: Allocation, shapes: list[tuple[int, int]], seed: int, sparsity: float, share: float
) -> None:
    layers, floor = layers_of(shapes, seed), share * (1 - sparsity)
    shares = allocation.allocate(layers, sparsity, floor)
    dropped = [round(share * layer.units) for share, layer in zip(shares, layers, strict=True)]
    assert all(0 <= n <= layer.units for n, layer in zip(dropped, layers, strict=True))
    assert all(layer.units - n >= int(floor * layer.units) - 1 for n, layer in zip(dropped, layers, strict=True))
    total = sum(layer.units for layer in layers)
    rounding = len(layers) / 2 + 1 if len(set(shares)) == 1 else 0  # every layer's own, where all have one sparsity
    assert abs(sum(dropped) - round(sparsity * total)) <= rounding


@every_allocation
@given(shapes=SHAPES, seed=st.integers(0, 99), sparsity=st.floats(0, 0.99))
def test_the_same_twice(allocation: Allocation, shapes: list[tuple[int, int]], seed: int, sparsity: float) -> None:
    layers = layers_of(shapes, seed)
    assert allocation.allocate(layers, sparsity, 0.0) == allocation.allocate(layers, sparsity, 0.0)


@every_allocation
@given(shapes=SHAPES, seed=st.integers(0, 99), share=st.floats(0.01, 1.2))
def test_a_budget_holds_or_the_nearest_that_can_is_named(
    allocation: Allocation, shapes: list[tuple[int, int]], seed: int, share: float
) -> None:
    layers = layers_of(shapes, seed)
    budget = int(share * sum(layer.cost(layer.units) for layer in layers))
    try:
        shares = allocation.within(layers, Limit(budget))
    except RecipeError as error:
        budget = int(str(error).rsplit(maxsplit=1)[-1])
        shares = allocation.within(layers, Limit(budget))
        with pytest.raises(RecipeError, match=f"^budget: {budget - 1} bytes cannot be met, the nearest that can is {budget}$"):
            allocation.within(layers, Limit(budget - 1))
    assert cost_of(layers, shares) <= budget
    assert all(0 <= share <= 1 for share in shares)


@every_allocation
@given(shapes=SHAPES, seed=st.integers(0, 99))
def test_a_budget_that_holds_the_dense_layers_prunes_nothing(allocation: Allocation, shapes: list[tuple[int, int]], seed: int) -> None:
    layers = layers_of(shapes, seed)
    shares = allocation.within(layers, Limit(round(cost_of(layers, [0.0] * len(layers)) + 1)))
    assert all(lost(layer.unit_scores(), share) == 0 for layer, share in zip(layers, shares, strict=True))
