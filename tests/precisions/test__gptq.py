"""Against the formula, column by column in float64; what stays zero; what it gains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc import precisions
from sparsecc.least_squares import DAMPING, dampened
from sparsecc.precisions._gptq import gptq
from sparsecc.precisions._groups import InGroups, Steps


def problem(rows: int = 8, cols: int = 150, tokens: int = 600) -> tuple[Tensor, Tensor]:
    """A weight, and inputs that depend on each other, some of them strong."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(tokens, cols // 3, generator=generator, dtype=torch.float64)
    x = sources @ torch.randn(cols // 3, cols, generator=generator, dtype=torch.float64)
    x = x + torch.randn(tokens, cols, generator=generator, dtype=torch.float64)
    x[:, ::7] *= 4
    return torch.randn(rows, cols, generator=generator, dtype=torch.float64), x


def slow(weight: Tensor, hessian: Tensor, scale: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Optimal brain surgery on the columns that are left, each time with the inverse of their own Hessian."""
    left, numbers = weight.clone(), torch.zeros_like(weight)
    whole = dampened(hessian, DAMPING)
    columns = whole.diagonal().argsort(descending=True, stable=True).tolist()
    while columns:
        i = columns[0]
        numbers[:, i] = (left[:, i] / scale[:, i]).round().clamp(lowest[:, i], highest[:, i])
        numbers[:, i] = torch.where(weight[:, i] == 0, 0.0, numbers[:, i])
        inverse = torch.linalg.inv(whole[columns][:, columns])
        left[:, columns] -= (left[:, i] - numbers[:, i] * scale[:, i])[:, None] * inverse[0] / inverse[0, 0]
        columns = columns[1:]
    return numbers


def nearest(weight: Tensor, steps: Steps) -> Tensor:
    return (weight / steps.scale).round().clamp(-8 - steps.zero, 7 - steps.zero)


@pytest.mark.parametrize("zero", [0.0, 3.0])
def test_it_is_what_the_formula_says(zero: float) -> None:
    weight, x = problem()
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.3] = 0
    hessian = x.T @ x
    scale = weight.abs().amax(1, keepdim=True).expand(weight.shape) / 7.5
    steps = Steps(scale, torch.full_like(scale, zero))
    found = gptq(weight, hessian, steps, nearest)
    assert torch.equal(found, slow(weight, hessian, scale, -8 - steps.zero, 7 - steps.zero))
    assert not found[weight == 0].any()


@pytest.mark.parametrize("key", ["int4:128", "int4:32:asymmetric", "int4:row", "int8_weight_only:row", "int8_weight_only:64:asymmetric"])
def test_outputs_are_nearer_than_those_of_the_nearest_numbers(key: str) -> None:
    weight, x = problem()
    weight, x = weight.float(), x.float()
    precision = precisions.from_key(key)
    assert isinstance(precision, InGroups)
    ours, near = precision.quantize_for(weight, (x.T @ x).double()), precision.quantize(weight)
    errors = [float(((w.dense() - weight) @ x.T).norm()) for w in (ours, near)]
    assert errors[0] < 0.75 * errors[1]
    assert ours.scheme == near.scheme
    assert all(torch.equal(ours.tensors[name], near.tensors[name]) for name in precision.scale_names)


def test_an_input_that_is_always_zero_is_rounded_to_the_nearest() -> None:
    weight, x = problem()
    x[:, 5] = 0
    precision = precisions.from_key("int4:128")
    ours, near = precision.quantize_for(weight.float(), x.T @ x), precision.quantize(weight.float())
    assert torch.equal(ours.values()[:, 5], near.values()[:, 5])
