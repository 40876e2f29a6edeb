"""Against matrices that are written out."""

from __future__ import annotations

import pytest
import torch

from sparsecc.criteria import _curvature
from sparsecc.criteria._curvature import Curvature
from tests.criteria.quadratic import SHAPE, best_on, cost, curvature_of, problem

KEEP = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)) < 0.5


@pytest.mark.parametrize("damping", [0.01, 1.0])
@pytest.mark.parametrize("samples", [3, 40])
def test_products_and_inverses(samples: int, damping: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_curvature, "_BYTES", 2 * 8 * samples * SHAPE[1])  # two rows at once
    weight, gradients = problem(samples)
    found, dense = Curvature(gradients, damping), curvature_of(gradients, damping)
    torch.testing.assert_close(found.inverse_diagonal(), torch.linalg.inv(dense).diagonal(dim1=1, dim2=2), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.slope(weight), torch.einsum("rij,rj->ri", dense, weight))


@pytest.mark.parametrize("samples", [3, 40])
def test_the_best_point_on_a_support_and_what_it_costs(samples: int) -> None:
    weight, gradients = problem(samples)
    best, costs = Curvature(gradients, 0.1).best_on(weight, KEEP)
    dense = curvature_of(gradients, 0.1)
    torch.testing.assert_close(best, best_on(dense, weight, KEEP), rtol=1e-8, atol=1e-10)
    assert float(costs.sum()) == pytest.approx(cost(dense, best - weight))


def test_one_weight_that_goes_moves_the_others_as_the_surgeon_says() -> None:
    weight, gradients = problem()
    inverse, keep = torch.linalg.inv(curvature_of(gradients, 0.1)), torch.ones(SHAPE, dtype=torch.bool)
    keep[2, 7] = False
    best, costs = Curvature(gradients, 0.1).best_on(weight, keep)
    move = torch.zeros_like(weight)
    move[2] = -weight[2, 7] * inverse[2, 7] / inverse[2, 7, 7]
    torch.testing.assert_close(best - weight, move, rtol=1e-8, atol=1e-10)
    assert float(costs[2]) == pytest.approx(float(weight[2, 7] ** 2 / (2 * inverse[2, 7, 7])))


def test_in_float32() -> None:
    weight, gradients = problem()
    found, exact = (Curvature(g, 0.1).best_on(weight, KEEP)[0] for g in (gradients.float(), gradients))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_in_float32_where_one_weight_is_all_there_is() -> None:
    gradients = torch.zeros(3, *SHAPE)
    gradients[:, 1, 4] = torch.tensor([3e4, -2e4, 1e4])
    found = Curvature(gradients, 1e-6).inverse_diagonal()
    exact = torch.linalg.inv(curvature_of(gradients.double(), 1e-6)).diagonal(dim1=1, dim2=2)
    assert 0.99 * exact[1, 4] < found[1, 4] < 10 * exact[1, 4]  # 1/λ, of which it is the rest, is 5·10⁷ times as much
    exact[1, 4] = found[1, 4]
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=0)


def test_without_any_gradient_it_is_the_identity() -> None:
    weight, gradients = problem()
    flat = Curvature(torch.zeros_like(gradients), 0.1)
    assert torch.equal(flat.inverse_diagonal(), torch.ones_like(weight))
    assert torch.equal(flat.best_on(weight, KEEP)[0], weight * KEEP)
