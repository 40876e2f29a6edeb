from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecc.errors import RecipeError
from sparsecc.train.granet import Granet
from tests.train.views import random, view


def test_the_sparsity_rises_from_the_initial_one_and_then_stays() -> None:
    method = Granet(steps=100, sparsity=0.9, initial=0.5, pruned=40, end=80)
    assert [method.sparsity_at(step, 0.9) for step in (0, 20, 40, 60)] == pytest.approx([0.5, 0.85, 0.9, 0.9])
    assert float(method.first(view(random(), sparsity=0.9)).float().mean()) == 0.5
    assert Granet(steps=100, sparsity=0.9).first(view(random(), sparsity=0.9)).all()


def test_more_are_pruned_than_the_schedule_says_and_as_many_grow() -> None:
    weight, gradient = random(seed=1), random(seed=2)
    method = Granet(steps=100, sparsity=0.75, share=0.5, every=10, end=80, pruned=40)
    keep = method.first(view(weight, sparsity=0.75))
    keep = method.change(view(weight, keep, gradient, sparsity=0.75), 20)
    sparsity = 0.75 * (1 - 0.5**3)
    assert int(keep.sum()) == keep.numel() - round(sparsity * keep.numel())
    stayed = round((1 - method.exchanged(20)) * int(keep.sum()))
    largest = weight.abs() >= weight.abs().flatten().sort(descending=True).values[stayed - 1]
    assert keep[largest].all()
    assert gradient.abs()[keep & ~largest].min() > gradient.abs()[~keep].max()


def test_it_prunes_even_where_no_gradient_came() -> None:
    weight = random()
    keep = Granet(steps=100, sparsity=0.75).change(view(weight, sparsity=0.75), 75)
    assert torch.equal(keep, view(weight).pattern.project(weight.abs(), 0.75))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initial": 0.9, "sparsity": 0.8}, r"initial: 0.9 is not in \[0, 0.8\]"),
        ({"pruned": 90}, r"pruned: 90 is not in \(0, 75\]"),
        ({"pruned": 0}, r"pruned: 0 is not in \(0, 75\]"),
    ],
)
def test_options_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        Granet(steps=100, **fields)


def test_it_is_settled_with_the_first_change_at_full_sparsity() -> None:
    method = Granet(steps=100, pruned=41, every=10, end=80)
    assert next(step for step in range(100) if method.settled(step)) == 50
    assert next(step for step in range(100) if Granet(steps=100, pruned=79, every=10, end=79).settled(step)) == 79
