"""quantized_linear in torch: what its reference says; traced, exported, with gradients straight through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from sparsecc.precisions.base import Quantized
from tests.ops.quantized_linear.schemes import COLS, KEYS, ROWS, every_scheme, stored
from tests.tolerance import assert_close


def call(weight: Quantized, x: Tensor, bias: Tensor | None) -> Tensor:
    target, options = QuantizedLinear(weight, bias).torch_call("fc")
    return target(x, list(weight.tensors.values()), bias, *options)


@every_scheme
@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 5, 16)])
def test_it_multiplies_what_is_left_of_inputs_and_weight(key: str, format: str | None, shape: tuple[int, ...]) -> None:
    weight, x, bias = stored(key, format), torch.randn(shape), torch.randn(ROWS)
    rounded = weight.scheme.precision.round_inputs(x, weight.scales).double()
    expected = (rounded @ weight.dense().double().T + bias).float()
    assert_close(call(weight, x, bias), expected)
    assert_close(QuantizedLinear(weight, bias).reference(x), expected)


@pytest.mark.parametrize("key", KEYS)
def test_gradients_pass_through_the_rounding(key: str) -> None:
    weight, x, bias = stored(key), torch.randn(3, COLS, requires_grad=True), torch.zeros(ROWS, requires_grad=True)
    call(weight, x, bias).sum().backward()
    assert x.grad is not None and bias.grad is not None
    assert_close(x.grad, weight.dense().sum(0).expand(3, -1))
    assert_close(bias.grad, torch.full((ROWS,), 3.0))


@every_scheme
def test_torch_accepts_the_operator(key: str, format: str | None) -> None:
    weight = stored(key, format)
    arguments = (torch.randn(3, COLS), list(weight.tensors.values()), torch.randn(ROWS), weight.scheme.key, ROWS, COLS, "fc")
    torch.library.opcheck(torch.ops.sparsecc.quantized_linear.default, arguments)
