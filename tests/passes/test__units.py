"""Scores of units, and least squares on what stays."""

from __future__ import annotations

import pytest
import torch

from sparsecc.passes._units import DAMPING, Inputs, by_least_squares, contributions, least, magnitudes, within

UNITS, SIZE, ROWS = 6, 3, 5
COLS = UNITS * SIZE


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(9, COLS, generator=generator, dtype=torch.float64)
    return torch.randn(400, 9, generator=generator, dtype=torch.float64) @ mix + 0.5


def inputs(x: torch.Tensor, bias: bool = True) -> Inputs:
    return Inputs.of(x.mean(0), x.T @ x / len(x), bias)


def without(weight: torch.Tensor, unit: int) -> torch.Tensor:
    keep = torch.arange(COLS) // SIZE != unit
    return weight * keep


@pytest.mark.parametrize("bias", [True, False])
def test_a_contribution_is_the_error_that_its_removal_makes(weight: torch.Tensor, x: torch.Tensor, bias: bool) -> None:
    found = contributions(weight, inputs(x, bias), UNITS)
    for unit in range(UNITS):
        gone = x @ (weight - without(weight, unit)).T
        apart = gone - gone.mean(0) if bias else gone
        torch.testing.assert_close(found[unit], apart.square().sum(1).mean())


def test_magnitudes(weight: torch.Tensor) -> None:
    written = torch.randn(UNITS, 4)
    constant = torch.zeros(COLS, dtype=torch.float64)
    constant[:SIZE] = torch.tensor([1.0, 2.0, 2.0])
    written[0] = 0
    found = magnitudes(written, constant, weight, UNITS)
    torch.testing.assert_close(found[0], 3 * weight[:, :SIZE].norm())
    torch.testing.assert_close(found[2], written[2].double().norm() * weight[:, 2 * SIZE : 3 * SIZE].norm())


def test_the_least_go_and_the_dead_first() -> None:
    scores, dead = torch.tensor([3.0, 1.0, 2.0, 1.0, 5.0]), torch.tensor([False, False, False, False, True])
    assert least(scores, dead, 0).tolist() == [0, 1, 2, 3, 4]
    assert least(scores, dead, 1).tolist() == [0, 1, 2, 3]
    assert least(scores, dead, 2).tolist() == [0, 1, 2]  # of equal ones the lower index stays
    assert least(scores, dead, 4).tolist() == [0]


@pytest.mark.parametrize("drop", [1, 2, 4])
def test_what_stays_is_the_least_squares_solution(weight: torch.Tensor, x: torch.Tensor, drop: int) -> None:
    given = inputs(x)
    units, left = by_least_squares(weight, given, torch.zeros(UNITS, dtype=torch.bool), drop)
    assert len(units) == UNITS - drop
    assert units.tolist() == sorted(set(units.tolist()))
    kept = (units[:, None] * SIZE + torch.arange(SIZE)).flatten()
    dampened = given.products + DAMPING * given.products.diagonal().mean() * torch.eye(COLS, dtype=torch.float64)
    expected = torch.linalg.solve(dampened[kept][:, kept], dampened[kept] @ weight.T).T
    torch.testing.assert_close(left, expected)


def test_the_first_to_go_costs_least(weight: torch.Tensor, x: torch.Tensor) -> None:
    """Against every unit tried in turn."""
    given = inputs(x)
    alive = torch.zeros(UNITS, dtype=torch.bool)
    dampened = given.products + DAMPING * given.products.diagonal().mean() * torch.eye(COLS, dtype=torch.float64)

    def cost(gone: int) -> float:
        kept = torch.arange(COLS)[torch.arange(COLS) // SIZE != gone]
        apart = weight.clone()
        apart[:, kept] -= torch.linalg.solve(dampened[kept][:, kept], dampened[kept] @ weight.T).T
        return float((apart @ dampened * apart).sum())

    units, _ = by_least_squares(weight, given, alive, 1)
    [gone] = set(range(UNITS)) - set(units.tolist())
    assert cost(gone) == pytest.approx(min(map(cost, range(UNITS))))


def test_inputs_that_are_always_zero() -> None:
    given = inputs(torch.zeros(10, COLS, dtype=torch.float64))
    units, left = by_least_squares(torch.ones(2, COLS, dtype=torch.float64), given, torch.ones(UNITS, dtype=torch.bool), 2)
    assert left.isfinite().all()
    assert len(units) == 4


def test_zeros_that_are_held_stay_and_the_others_are_the_least_squares_solution(weight: torch.Tensor, x: torch.Tensor) -> None:
    given, columns = inputs(x), torch.arange(COLS - SIZE)
    keep = torch.rand(ROWS, len(columns), generator=torch.Generator().manual_seed(2)) < 0.5
    found = within(weight, weight[:, columns], given, columns, keep)
    assert not found[~keep].any()
    hessian = given.products + DAMPING * given.products.diagonal().mean() * torch.eye(COLS)
    for row, kept in enumerate(keep):
        among = columns[kept]
        best = torch.linalg.solve(hessian[among][:, among], hessian[among] @ weight[row])
        torch.testing.assert_close(found[row, kept], best, rtol=2e-2, atol=2e-2)
