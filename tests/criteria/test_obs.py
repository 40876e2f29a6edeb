from __future__ import annotations

from itertools import combinations

import pytest
import torch

from sparsecc.criteria.base import project_of
from sparsecc.criteria.magnitude import Magnitude
from sparsecc.criteria.obs import Obs
from sparsecc.patterns import parse
from tests.criteria.quadratic import best_on, cost, curvature_of, problem

PATTERNS = ["unstructured", "2x1", "1x4", "2:4", "3:6"]


def test_the_score_is_what_the_removal_costs() -> None:
    weight, gradients = problem()
    inverse = torch.linalg.inv(curvature_of(gradients, 0.1)).diagonal(dim1=1, dim2=2)
    score = Obs(damping=0.1).score(weight, {"gradients": gradients}, 0)
    torch.testing.assert_close(score, (weight.square() / (2 * inverse)).float())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_weights_that_stay_are_the_best_on_their_support(pattern: str) -> None:
    weight, gradients = problem()
    chosen = Obs(damping=0.1).choose(weight, project_of(parse(pattern)), 0.5, {"gradients": gradients}, 0)
    assert chosen.weight is not None
    torch.testing.assert_close(chosen.weight, best_on(curvature_of(gradients, 0.1), weight, chosen.keep), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_costs_less_than_magnitude(pattern: str) -> None:
    weight, gradients = problem(samples=60, shape=(8, 24))
    dense, project = curvature_of(gradients, 0.1), project_of(parse(pattern))
    keep = Magnitude().choose(weight, project, 0.5, {}, 0).keep
    found = Obs(damping=0.1).choose(weight, project, 0.5, {"gradients": gradients}, 0)
    assert found.weight is not None
    assert cost(dense, found.weight - weight) < 0.9 * cost(dense, best_on(dense, weight, keep) - weight)


def test_the_one_weight_to_drop_is_found() -> None:
    """Of all supports that lack one weight, by trying them."""
    weight, gradients = problem(shape=(2, 6))
    dense, costs = curvature_of(gradients, 0.1), []
    for kept in combinations(range(12), 11):
        keep = torch.zeros(12, dtype=torch.bool)
        keep[list(kept)] = True
        costs.append((cost(dense, best_on(dense, weight, keep.reshape(2, 6)) - weight), keep))
    chosen = Obs(damping=0.1).choose(weight, project_of(parse("unstructured")), 1 / 12, {"gradients": gradients}, 0)
    assert torch.equal(chosen.keep.reshape(-1), min(costs, key=lambda found: found[0])[1])


def test_zeros_that_are_there_stay_and_nothing_moves_for_them() -> None:
    weight, gradients = problem()
    weight[:, ::2] = 0
    chosen = Obs().choose(weight, project_of(parse("unstructured")), 0.5, {"gradients": gradients}, 0)
    assert chosen.weight is not None
    assert torch.equal(chosen.weight, weight)
