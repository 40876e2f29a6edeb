"""Least squares from moments, and what is held out."""

from __future__ import annotations

import pytest
import torch

from sparsecc.recovery.reconstruct import Moments, fit, split


def test_the_fit_is_the_least_squares_solution_of_each_row() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(500, 12, generator=generator), torch.randn(5, 12, generator=generator)
    keep = torch.cat([torch.rand(5, 12, generator=generator) < 0.5, torch.ones(5, 1, dtype=torch.bool)], 1)
    y = x @ weight.T + 3
    moments = Moments.of(5, 12)
    for part, given in zip(x.split(200), y.split(200), strict=True):
        moments.add(part, given)
    found = fit(torch.zeros(5, 13), keep, moments)
    ones = torch.cat([x, torch.ones(500, 1)], 1).double()
    for row, mask, given in zip(found, keep, y.double().T, strict=True):
        exact = torch.linalg.lstsq(ones[:, mask], given).solution
        torch.testing.assert_close(row[mask], exact, rtol=0.01, atol=0.01)  # it is dampened
        assert not row[~mask].any()
    assert moments.error(found) == pytest.approx(float((y - ones @ found.T).norm() / y.norm()), rel=1e-4)


def test_one_sample_at_least_is_held_out() -> None:
    fitted, held = split(20, 0.1)
    assert held == [5, 15]
    assert sorted([*fitted, *held]) == list(range(20))
    assert split(3, 0.1) == ([0, 2], [1])
    assert split(3, 0.9) == ([1], [0, 2])
    assert split(3, 0.0) == (range(3), range(3))
    assert split(1, 0.9) == (range(1), range(1))
