"""Truncated SVD: the nearest of its rank in the weights, and in the outputs when it knows the inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.structures.low_rank import LowRank


def output_error(weight: Tensor, other: Tensor, x: Tensor) -> float:
    return float((x.double() @ (weight - other).double().T).norm() / (x.double() @ weight.double().T).norm())


def skewed_inputs(tokens: int, features: int) -> Tensor:
    """A few directions hold most of the power, as in a trained network."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(features, features, generator=generator) * torch.logspace(0, -3, features)
    return torch.randn(tokens, features, generator=generator) @ mix.T


def covariance(x: Tensor) -> Tensor:
    return x.double().T @ x.double() / len(x)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_a_planted_product_is_recovered(rank: int) -> None:
    weight = torch.randn(40, rank) @ torch.randn(rank, 24)
    for h in (None, covariance(skewed_inputs(100, 24))):
        found = LowRank(rank).project(weight, h).dense()
        assert (found - weight).norm() <= 1e-5 * weight.norm()


def test_the_error_is_that_of_the_singular_values_left_out() -> None:
    weight = torch.randn(30, 20, dtype=torch.float64)
    left_out = torch.linalg.svdvals(weight)[7:].norm()
    assert float((weight - LowRank(7).project(weight).dense()).norm()) == pytest.approx(float(left_out), rel=1e-10)


def test_whitened_it_is_the_best_in_the_outputs() -> None:
    weight, x = torch.randn(48, 32), skewed_inputs(200, 32)
    plain, whitened = (LowRank(8).project(weight, h).dense() for h in (None, covariance(x)))
    outputs = x.double() @ weight.double().T
    best = torch.linalg.svdvals(outputs)[8:].norm() / outputs.norm()  # no matrix of rank 8 comes nearer
    assert output_error(weight, whitened, x) == pytest.approx(float(best), rel=1e-3)
    assert output_error(weight, whitened, x) < 0.9 * output_error(weight, plain, x)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_fewer_tokens_than_inputs(tokens: int) -> None:
    """H is singular: what the tokens see is exact, and the rank left over follows the weights."""
    weight, x = torch.randn(24, 32), torch.randn(tokens, 32)
    h = x.double().T @ x.double() / max(1, tokens)
    found = LowRank(10).project(weight, h).dense()
    assert found.isfinite().all()
    assert tokens == 0 or output_error(weight, found, x) < 1e-4
    assert (weight - found).norm() < 0.9 * weight.norm()


def test_both_factors_have_the_same_scale() -> None:
    weight = 1e-3 * torch.randn(64, 48)
    for h in (None, covariance(skewed_inputs(100, 48))):
        stored = LowRank(4).project(weight, h).tensors
        torch.testing.assert_close(stored["right"][0].norm(dim=1), stored["left"][0].norm(dim=0))


def test_sized() -> None:
    assert LowRank.sized(768, 3072, 0.25) == [LowRank(153)]
    assert LowRank.sized(37, 41, 0.05) == []
    assert LowRank.sized(1, 1, 0.99) == []


def test_ranks_that_a_matrix_cannot_have() -> None:
    assert LowRank(8).check(8, 9) is None
    assert LowRank(9).check(8, 100) == Refused("a 8×100 matrix has no rank 9")
