from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.calibration.statistics import statistics
from sparsecc.criteria.base import project_of
from sparsecc.criteria.magnitude import Magnitude
from sparsecc.criteria.sparsegpt import Sparsegpt
from sparsecc.criteria.wanda import Wanda
from sparsecc.least_squares import inverse_factor
from sparsecc.patterns import parse


def problem(rows: int = 24, cols: int = 300, tokens: int = 2000) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that are mixtures of fewer sources, as those of a network are."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(tokens, cols // 3, generator=generator)
    x = sources @ torch.randn(cols // 3, cols, generator=generator) + torch.randn(tokens, cols, generator=generator)
    return torch.randn(rows, cols, generator=generator), x


def test_inputs_that_have_nothing_in_common_leave_the_weights_alone() -> None:
    """Then a weight is worth its square times the power of its input, and no other can make up for it."""
    weight, power = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)), torch.linspace(0.5, 4, 40)
    chosen = Sparsegpt().choose(weight, project_of(parse("unstructured")), 0.5, {"hessian": torch.diag(power)}, 0)
    assert torch.equal(chosen.keep, project_of(parse("unstructured"))(weight.square() * (power + 0.01 * power.mean()), 0.5))
    assert chosen.weight is not None
    torch.testing.assert_close(chosen.weight, weight * chosen.keep)


def test_what_is_left_makes_up_for_what_went() -> None:
    """Two inputs that are nearly the same: the weight of the first, smaller one goes over to the second."""
    hessian = torch.tensor([[1.0, 0.99], [0.99, 1.0]])
    chosen = Sparsegpt().choose(torch.tensor([[1.0, 2.0]]), project_of(parse("1:2")), 0.5, {"hessian": hessian}, 0)
    assert chosen.weight is not None
    assert chosen.keep.tolist() == [[False, True]]
    assert chosen.weight[0, 1] == pytest.approx(2 + 0.99 / 1.01)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "2:4", "3:5"])
def test_outputs_are_nearer_than_by_other_criteria(pattern: str) -> None:
    weight, x = problem()
    stats, project = statistics([x], ("hessian", "norms")), project_of(parse(pattern))

    def error(criterion: Magnitude | Wanda | Sparsegpt) -> float:
        chosen = criterion.choose(weight, project, 0.5, stats, 0)
        pruned = (weight if chosen.weight is None else chosen.weight) * chosen.keep
        return float(((weight - pruned) @ x.T).norm() / (weight @ x.T).norm())

    assert error(Sparsegpt()) < 0.8 * min(error(Wanda()), error(Magnitude()))


def test_fewer_tokens_than_inputs_and_dead_inputs() -> None:
    weight, x = problem(tokens=20)
    x[:, 7] = 0
    chosen = Sparsegpt().choose(weight, project_of(parse("unstructured")), 0.5, statistics([x], ("hessian",)), 0)
    assert chosen.weight is not None
    assert chosen.weight.isfinite().all()
    assert not chosen.keep[:, 7].all()


def test_the_factor_is_of_the_inverse() -> None:
    _, x = problem(cols=30)
    hessian = statistics([x], ("hessian",))["hessian"]
    factor = inverse_factor(hessian)
    dampened = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(30)
    torch.testing.assert_close(factor.T @ factor @ dampened, torch.eye(30, dtype=torch.float64))
    assert torch.equal(factor, factor.triu())
