from __future__ import annotations

from itertools import combinations

import pytest
import torch

from sparsecc.criteria.base import project_of
from sparsecc.criteria.chita import Chita
from sparsecc.criteria.magnitude import Magnitude
from sparsecc.criteria.obs import Obs
from sparsecc.patterns import parse
from tests.criteria.quadratic import best_on, cost, curvature_of, problem

DAMPING = 0.1


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "2:4", "3:6"])
@pytest.mark.parametrize("seed", range(4))
def test_never_worse_than_what_it_starts_from_and_the_best_on_its_support(pattern: str, seed: int) -> None:
    weight, gradients = problem(samples=30, shape=(8, 24), seed=seed)
    dense, project, stats = curvature_of(gradients, DAMPING), project_of(parse(pattern)), {"gradients": gradients}
    found = Chita(damping=DAMPING).choose(weight, project, 0.5, stats, 0)
    assert found.weight is not None
    torch.testing.assert_close(found.weight, best_on(dense, weight, found.keep), rtol=1e-8, atol=1e-10)
    others = (Magnitude().choose(weight, project, 0.5, {}, 0), Obs(damping=DAMPING).choose(weight, project, 0.5, stats, 0))
    for other in others:
        assert cost(dense, found.weight - weight) <= cost(dense, best_on(dense, weight, other.keep) - weight) * (1 + 1e-9)


def test_choosing_jointly_costs_less_than_one_by_one() -> None:
    """Weights that do the same work: each alone is free to go, all of them are not."""
    costs = {"chita": 0.0, "obs": 0.0}
    for seed in range(8):
        weight, gradients = problem(samples=60, shape=(8, 24), seed=seed)
        dense, project = curvature_of(gradients, DAMPING), project_of(parse("unstructured"))
        for criterion in (Chita(damping=DAMPING), Obs(damping=DAMPING)):
            found = criterion.choose(weight, project, 0.6, {"gradients": gradients}, 0)
            assert found.weight is not None
            costs[type(criterion).__name__.lower()] += cost(dense, found.weight - weight)
    assert costs["chita"] < 0.9 * costs["obs"]


def test_near_the_best_of_all_supports() -> None:
    ratios = []
    for seed in range(6):
        weight, gradients = problem(samples=8, shape=(1, 10), seed=seed)
        dense = curvature_of(gradients, DAMPING)
        found = Chita(damping=DAMPING).choose(weight, project_of(parse("unstructured")), 0.5, {"gradients": gradients}, 0)
        assert found.weight is not None
        supports = torch.zeros(252, 1, 10, dtype=torch.bool)
        for keep, kept in zip(supports, combinations(range(10), 5), strict=True):
            keep[0, list(kept)] = True
        least = min(cost(dense, best_on(dense, weight, keep) - weight) for keep in supports)
        ratios.append(cost(dense, found.weight - weight) / least)
    assert min(ratios) < 1 + 1e-6
    assert sum(ratios) / len(ratios) < 2


def test_zeros_that_are_there_stay_and_nothing_moves_for_them() -> None:
    weight, gradients = problem()
    weight[:, ::2] = 0
    chosen = Chita().choose(weight, project_of(parse("unstructured")), 0.5, {"gradients": gradients}, 0)
    assert chosen.weight is not None
    assert torch.equal(chosen.weight, weight)
