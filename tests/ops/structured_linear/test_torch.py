"""structured_linear in torch: same output and gradients as the dense layer; traced, exported, trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc import structures
from sparsecc.ops.structured_linear.torch import StructuredLinear, reference
from sparsecc.structures.base import Structured
from tests.laws.members import STRUCTURES
from tests.tolerance import assert_close

ROWS, COLS = 8, 16
KEYS = [structure.key for structure in STRUCTURES if structure.check(ROWS, COLS) is None]


def _structured(key: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Structured:
    weight = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return structures.from_key(key).project(weight)


class Factored(nn.Module):
    """A layer as a rewritten graph holds it."""

    def __init__(self, weight: Structured) -> None:
        super().__init__()
        tensors = weight.tensors.values()
        self.factors = nn.ParameterList(nn.Parameter(tensor.clone(), tensor.is_floating_point()) for tensor in tensors)
        self.bias = nn.Parameter(torch.linspace(-1, 1, ROWS))
        self.key = weight.structure.key

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.sparsecc.structured_linear(x, list(self.factors), self.bias, self.key, ROWS, COLS, "fc")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 5, 16), (0, 16)])
def test_it_is_the_dense_layer(key: str, shape: tuple[int, ...]) -> None:
    weight, x, bias = _structured(key), torch.randn(shape), torch.randn(ROWS)
    call = StructuredLinear(weight, bias).torch_call("fc")
    actual, expected = call.target(x, list(weight.tensors.values()), bias, *call.options), functional.linear(x, weight.dense(), bias)
    assert actual.is_contiguous()
    if x.numel():
        assert_close(actual, expected)
        assert_close(StructuredLinear(weight, bias).reference(x), expected)
        assert_close(reference(x, weight.factors()), functional.linear(x, weight.dense()))
    assert actual.shape == expected.shape


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_and_their_gradients_are_those_of_finite_differences(key: str, has_bias: bool) -> None:
    weight = _structured(key, dtype=torch.float64)
    x, bias = torch.randn(2, 3, COLS, dtype=torch.float64), torch.randn(ROWS, dtype=torch.float64) if has_bias else None
    inputs = [x, *weight.tensors.values(), *([bias] if bias is not None else [])]
    count = len(weight.tensors)

    def call(x: Tensor, *rest: Tensor) -> Tensor:
        bias = rest[count] if has_bias else None
        return torch.ops.sparsecc.structured_linear(x, list(rest[:count]), bias, key, ROWS, COLS, "fc")

    inputs = [tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in inputs]
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)  # along a direction at random instead of every one


@pytest.mark.parametrize("frozen", ["x", "factors", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    layer, x = Factored(_structured("monarch:2x4:2")), torch.randn(3, COLS, requires_grad=frozen != "x")
    layer.factors.requires_grad_(frozen != "factors")
    layer.bias.requires_grad_(frozen != "bias")
    layer(x).sum().backward()
    assert (x.grad is None) == (frozen == "x")
    assert all((factor.grad is None) == (frozen == "factors") for factor in layer.factors)
    assert (layer.bias.grad is None) == (frozen == "bias")


@pytest.mark.parametrize("key", KEYS)
def test_torch_accepts_the_operator(key: str) -> None:
    layer, x = Factored(_structured(key)), torch.randn(3, COLS, requires_grad=True)
    torch.library.opcheck(torch.ops.sparsecc.structured_linear.default, (x, list(layer.factors), layer.bias, layer.key, ROWS, COLS, "fc"))


@pytest.mark.parametrize("strict", [True, False])
def test_export_keeps_it_whole(strict: bool) -> None:
    layer, x = Factored(_structured("monarch:2x4:2")), torch.randn(3, COLS)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=strict)
    assert "sparsecc.structured_linear" in str(program.graph)
    again = torch.randn(7, COLS)
    assert torch.equal(program.module()(again), layer(again))


def test_compiled_training_step() -> None:
    layer, x = Factored(_structured("monarch:2x4:2")), torch.randn(3, COLS)
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).sum().backward()
    compiled = [factor.grad.clone() for factor in layer.factors]
    layer.zero_grad()
    layer(x).sum().backward()
    for ours, factor in zip(compiled, layer.factors, strict=True):
        assert_close(ours, factor.grad)


@pytest.mark.parametrize("key", KEYS)
def test_training_comes_nearer_to_another_layer(key: str) -> None:
    layer, target = Factored(_structured(key)), _structured(key, seed=1).dense()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(torch.eye(COLS)) - target.T).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_wrong_width_is_refused_while_tracing() -> None:
    with pytest.raises(Exception, match="layer 'fc' takes 16 inputs"):
        torch.export.export(Factored(_structured("low_rank:3")), (torch.randn(3, COLS + 1),), strict=False)
