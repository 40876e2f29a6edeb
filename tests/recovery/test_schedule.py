"""What gradient descent minds, and in which order it takes samples."""

from __future__ import annotations

import pytest
import torch

from sparsecc.recovery.schedule import Schedule, error_of, mean_square, relative


def test_one_output_of_zeros_does_not_outweigh_all_others() -> None:
    """Divided by its own power its error would be infinite, and with it what Adam remembers."""
    found = torch.full((4,), 0.1, requires_grad=True)
    relative(found, torch.zeros(4), 2.0).backward()
    assert found.grad is not None
    assert float(found.grad.abs().max()) < 1e3
    assert float(relative(torch.ones(4), torch.zeros(4), 0.0)) == 4
    assert float(relative(torch.ones(4), torch.full((4,), 2.0), 3.0)) == 0.25


def test_each_round_takes_every_sample_in_an_order_that_the_seed_decides() -> None:
    first, second = (Schedule(8, 1e-3, (2, 5, 6, 9), (0,), "float32", seed) for seed in (0, 1))
    taken = [first.index(step) for step in range(8)]
    assert sorted(taken[:4]) == sorted(taken[4:]) == [2, 5, 6, 9]
    assert taken != [second.index(step) for step in range(8)]
    assert first.index(6) == taken[6]  # of the step alone, so that a run can go on


def test_rates_warm_up_and_fall_to_nothing() -> None:
    schedule = Schedule(100, 1e-2, (0,), (0,), "float32", 0)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] < rates[4] <= 1e-2
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert schedule.looks(99)


def test_errors_are_relative() -> None:
    y = torch.tensor([3.0, 4.0])
    assert error_of([(torch.zeros(2), y)]) == 1.0
    assert error_of([(y, torch.zeros(2))]) == 0.0
    assert mean_square([y, torch.zeros(2)]) == 6.25
