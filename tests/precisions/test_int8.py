"""A zero point for each token: what it is worth, and what it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc import precisions
from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from sparsecc.precisions.int8 import HALF_SPAN, LEVELS, Int8
from tests.graph import onnx_models as models
from tests.ops.layers import model_of


def rounded(x: Tensor) -> Tensor:
    precision = Int8()
    return precision.round_inputs(x, precision.quantize(torch.ones(1, x.shape[-1])).scales)


def test_all_numbers_are_for_the_side_of_zero_on_which_a_token_is() -> None:
    x = torch.rand(50, 64) + 0.5
    for token in (x, -x, torch.cat([x, -0.01 * x], dim=1)):
        step = (token.amax(1).clamp(min=0) - token.amin(1).clamp(max=0)) / (2 * HALF_SPAN)
        assert ((rounded(token) - token).abs() <= 0.501 * step[:, None]).all()


def test_behind_gelu_errors_are_half_of_symmetric_ones() -> None:
    x = functional.gelu(torch.randn(200, 256))
    scale = x.abs().amax(dim=1, keepdim=True) / LEVELS
    symmetric = (x / scale).round() * scale
    assert float((rounded(x) - x).norm()) < 0.6 * float((symmetric - x).norm())


def test_zero_stays_zero() -> None:
    x = functional.relu(torch.randn(20, 30) - 0.2) * torch.tensor([1.0, -1.0]).repeat(10)[:, None]
    x[3] = 0
    x[4, 1:] = 0
    assert (rounded(x)[x == 0] == 0).all()
    assert (rounded(x)[3] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 0.37, 3e-5, 7e20])
def test_no_end_of_a_token_leaves_its_byte(scale: float) -> None:
    """Where both ends are half a step from a number, and one bit to either side of that."""
    halves = torch.arange(0.5, 2 * HALF_SPAN)
    ends = torch.stack([-halves, 2 * HALF_SPAN - halves], dim=1) * scale
    for near in (ends, ends.nextafter(ends.sign() * 3e38), ends.nextafter(torch.zeros(()))):
        assert ((rounded(near) - near).abs() <= 0.501 * scale).all()
        again = rounded(near) / ((near[:, 1:] / 2 - near[:, :1] / 2) / HALF_SPAN)
        zeros = (again[:, 0].round() + HALF_SPAN)[:, None]
        assert (again.round() - zeros).abs().max() <= LEVELS


def test_only_tokens_with_nan_or_infinity_lose_their_values() -> None:
    x = torch.randn(7, 8)
    x[0, 0], x[1, 1], x[2, 2] = torch.nan, torch.inf, -torch.inf
    x[3, :2] = torch.tensor([3e38, -3e38])
    x[4] = 1e-44
    finite = rounded(x).isfinite().all(dim=1)
    assert finite.tolist() == [False] * 3 + [True] * 4


@pytest.mark.parametrize("key", ["int8", "int8:7"])
def test_a_file_says_the_same_of_tokens_on_one_side_of_zero(key: str) -> None:
    torch.manual_seed(0)
    weight = precisions.from_key(key).quantize(torch.randn(24, 64).abs())
    op, x = QuantizedLinear(weight), torch.rand(8, 64) * torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    x[2] = 0
    x[3], x[4] = 1e-20, 1e-44
    found = torch.from_numpy(models.run(model_of(op, [8, 64], 18), x=x.numpy())[0])
    torch.testing.assert_close(found, op.reference(x), rtol=1e-5, atol=1e-5)
