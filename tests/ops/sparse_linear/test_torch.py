"""sparse_linear in torch: same output and gradients as the dense layer with the same mask; traced, exported, trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.formats import storing
from sparsecc.formats.base import Packed
from sparsecc.ops.sparse_linear.torch import SparseLinear, reference
from sparsecc.patterns import parse
from tests.tolerance import assert_close

PATTERNS = ("unstructured", "4x1", "1x4", "2:4")
ROWS, COLS = 8, 16


def _packed(pattern: str, seed: int = 0) -> tuple[Tensor, Tensor, Packed]:
    """Masked weight, mask, and the weight packed."""
    format = storing(parse(pattern))
    weight = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(seed))
    keep = format.pattern.project(weight.abs(), 0.5)
    return weight * keep, keep, format.pack(weight, keep)


class Packing(nn.Module):
    """A layer as a rewritten graph holds it: values that train, indices that do not."""

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        values, *indices = packed.tensors.values()
        self.values = nn.Parameter(values.clone())
        self.bias = nn.Parameter(torch.linspace(-1, 1, ROWS))
        self.key, self.count = packed.format.key, len(indices)
        for i, index in enumerate(indices):
            self.register_buffer(f"index_{i}", index)

    @property
    def tensors(self) -> list[Tensor]:
        return [self.values, *(getattr(self, f"index_{i}") for i in range(self.count))]

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.sparsecc.sparse_linear(x, self.tensors, self.bias, self.key, ROWS, COLS, "fc")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 5, 16)])
def test_it_is_the_dense_layer_with_the_same_mask(pattern: str, shape: tuple[int, ...]) -> None:
    weight, _, packed = _packed(pattern)
    x, bias = torch.randn(shape), torch.randn(ROWS)
    call = SparseLinear(packed, bias).torch_call("fc")
    expected = functional.linear(x, weight, bias)
    assert_close(call.target(x, list(packed.tensors.values()), bias, *call.options), expected)
    assert_close(SparseLinear(packed, bias).reference(x), expected)
    assert_close(reference(x, packed), functional.linear(x, weight))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_are_the_dense_ones_at_the_stored_positions(pattern: str) -> None:
    weight, keep, packed = _packed(pattern)
    layer, x = Packing(packed), torch.randn(2, 5, COLS, requires_grad=True)
    layer(x).square().sum().backward()
    dense, dense_bias, dense_x = (t.detach().clone().requires_grad_() for t in (weight, layer.bias, x))
    functional.linear(dense_x, dense, dense_bias).square().sum().backward()
    assert x.grad is not None and dense_x.grad is not None
    assert_close(x.grad, dense_x.grad)
    assert layer.bias.grad is not None and dense_bias.grad is not None
    assert_close(layer.bias.grad, dense_bias.grad)
    assert layer.values.grad is not None and dense.grad is not None
    assert_close(layer.values.grad, packed.format.pack(dense.grad, keep).tensors["values"])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_torch_accepts_the_operator(pattern: str) -> None:
    layer = Packing(_packed(pattern)[2])
    x = torch.randn(3, COLS, requires_grad=True)
    torch.library.opcheck(torch.ops.sparsecc.sparse_linear.default, (x, layer.tensors, layer.bias, layer.key, ROWS, COLS, "fc"))


@pytest.mark.parametrize("strict", [True, False])
def test_export_keeps_it_whole(strict: bool) -> None:
    layer = Packing(_packed("unstructured")[2])
    x = torch.randn(3, COLS)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=strict)
    assert "sparsecc.sparse_linear" in str(program.graph)
    again = torch.randn(7, COLS)
    assert torch.equal(program.module()(again), layer(again))


def test_compiled_training_step() -> None:
    layer = Packing(_packed("unstructured")[2])
    x = torch.randn(3, COLS)
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).sum().backward()
    compiled = layer.values.grad
    layer.zero_grad()
    layer(x).sum().backward()
    assert compiled is not None and layer.values.grad is not None
    assert_close(compiled, layer.values.grad)


def test_training_moves_values_and_never_zeros() -> None:
    _, keep, packed = _packed("2:4")
    layer = Packing(packed)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (layer(torch.eye(COLS)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    trained = torch.ops.sparsecc.unpack(layer.tensors, layer.key, ROWS, COLS)
    assert torch.equal(trained != 0, keep)


def test_a_wrong_width_is_refused_while_tracing() -> None:
    with pytest.raises(Exception, match="layer 'fc' takes 16 inputs"):
        torch.export.export(Packing(_packed("2:4")[2]), (torch.randn(3, COLS + 1),), strict=False)
