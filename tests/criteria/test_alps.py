from __future__ import annotations

import pytest
import torch

from sparsecc.criteria.alps import Alps
from sparsecc.criteria.base import project_of
from sparsecc.criteria.sparsegpt import Sparsegpt
from sparsecc.passes._calibrate import statistics
from sparsecc.patterns import parse
from tests.criteria.test_sparsegpt import problem


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "2:4", "3:5"])
def test_outputs_are_nearer_than_by_sparsegpt(pattern: str) -> None:
    weight, x = problem()
    stats, project = statistics([x], ("hessian",)), project_of(parse(pattern))

    def error(criterion: Alps | Sparsegpt) -> float:
        chosen = criterion.choose(weight, project, 0.5, stats, 0)
        assert chosen.weight is not None
        assert torch.equal(chosen.weight, chosen.weight * chosen.keep)
        return float(((weight - chosen.weight) @ x.T).norm() / (weight @ x.T).norm())

    assert error(Alps()) < 0.9 * error(Sparsegpt())


def test_inputs_that_have_nothing_in_common_leave_the_weights_alone() -> None:
    weight, power = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)), torch.linspace(0.5, 4, 40)
    project = project_of(parse("unstructured"))
    chosen = Alps().choose(weight, project, 0.5, {"hessian": torch.diag(power)}, 0)
    assert chosen.weight is not None
    assert torch.equal(chosen.keep, project(weight.square() * (power + 0.01 * power.mean()), 0.5))
    torch.testing.assert_close(chosen.weight, weight * chosen.keep)


def test_the_best_of_all_masks_of_a_small_problem() -> None:
    """All 20 masks of three of six weights, each with its best weights."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    weight = torch.randn(1, 6, generator=generator)
    stats = statistics([x], ("hessian",))
    chosen = Alps().choose(weight, project_of(parse("unstructured")), 0.5, stats, 0)
    assert chosen.weight is not None
    errors = []
    for places in torch.combinations(torch.arange(6), 3):
        best = torch.linalg.lstsq(x[:, places], x @ weight.T).solution
        errors.append(float((x[:, places] @ best - x @ weight.T).square().sum()))
    found = float((x @ (chosen.weight - weight).T).square().sum())
    assert found <= sorted(errors)[1] * 1.02


def test_fewer_tokens_than_inputs_and_dead_inputs() -> None:
    weight, x = problem(tokens=20)
    x[:, 7] = 0
    chosen = Alps().choose(weight, project_of(parse("unstructured")), 0.5, statistics([x], ("hessian",)), 0)
    assert chosen.weight is not None
    assert chosen.weight.isfinite().all()
    assert float(chosen.weight[:, 7].abs().max()) <= float(weight[:, 7].abs().max()) + 1e-6
