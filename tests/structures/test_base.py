"""Factors: block-diagonal, then permuted; what does not fit together is an error that names the layer."""

from __future__ import annotations

import pytest
import torch

from sparsecc.errors import ModelError
from sparsecc.structures.base import Factor, Structured, apply
from sparsecc.structures.monarch import Monarch


def test_a_factor_is_its_block_diagonal_matrix_and_its_permutation() -> None:
    weight, x = torch.randn(3, 4, 5), torch.randn(7, 15)
    factor = Factor(weight, (3, 2, 2), (1, 0, 2))
    product = x @ torch.block_diag(*weight).T
    torch.testing.assert_close(factor.multiply(x), product)
    order = torch.arange(12).reshape(3, 2, 2).permute(1, 0, 2).flatten()
    assert torch.equal(factor.permute(product), product[:, order])
    assert torch.equal(factor.restore(factor.permute(product)), product)
    assert Factor(weight).permute(product) is product
    assert Factor(weight).restore(product) is product


def test_a_tied_block_stands_on_the_diagonal_several_times() -> None:
    weight, x = torch.randn(2, 4, 5), torch.randn(7, 30)
    factor = Factor(weight, (6, 4), (1, 0), tied=3)
    assert (factor.on_diagonal, factor.inputs, factor.outputs) == (6, 30, 24)
    product = x @ torch.block_diag(*weight.repeat_interleave(3, 0)).T
    torch.testing.assert_close(factor.multiply(x), product)
    assert torch.equal(factor.by_token(factor.by_block(x)), x)
    assert factor.multiply(x[:0]).shape == (0, 24)


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 6), (2, 3, 6)])
def test_leading_dimensions_stay(shape: tuple[int, ...]) -> None:
    first, second = torch.randn(2, 4, 3), torch.randn(4, 1, 2)
    y = apply((Factor(first, (2, 2, 2), (1, 0, 2)), Factor(second)), torch.ones(shape))
    assert y.shape == (*shape[:-1], 4)


def test_damaged_factors_are_said_by_name() -> None:
    good = Monarch(2, 3, 1).project(torch.randn(6, 4))
    bad = Structured(good.structure, 6, 4, {**good.tensors, "left": good.tensors["left"][:, :1]})
    with pytest.raises(ModelError, match="layer 'fc1': its factors are damaged"):
        bad.dense("fc1")
