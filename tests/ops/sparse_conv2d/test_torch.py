"""sparse_conv2d in torch: same output and gradients as the dense convolution with the same mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.formats import storing
from sparsecc.formats.base import Packed
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d, matrix_of, weight_of
from sparsecc.patterns import parse
from tests.tolerance import assert_close

PATTERNS = ("unstructured", "4x1", "2:4")
GEOMETRIES: tuple[dict[str, Any], ...] = (
    {"kernel": (1, 1)},
    {"kernel": (3, 3), "padding": (1, 1, 1, 1), "stride": (2, 2)},
    {"kernel": (3, 2), "padding": (1, 0, 2, 1), "stride": (2, 1), "dilation": (1, 2)},
)


def _packed(pattern: str, kernel: tuple[int, int]) -> tuple[Tensor, Tensor, Packed]:
    """Masked weight [8, 4, kh, kw], mask of its matrix, and the matrix packed."""
    format = storing(parse(pattern))
    weight = torch.randn(8, 4, *kernel, generator=torch.Generator().manual_seed(0))
    matrix = matrix_of(weight)
    keep = format.pattern.project(matrix.abs(), 0.5)
    return weight_of(matrix * keep, kernel), keep, format.pack(matrix, keep)


def _dense(op: SparseConv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    top, left, bottom, right = op.padding
    return functional.conv2d(functional.pad(x, (left, right, top, bottom)), weight, bias, op.stride, 0, op.dilation)


def _call(op: SparseConv2d, x: Tensor, tensors: list[Tensor]) -> Tensor:
    call = op.torch_call("conv")
    return call.target(x, tensors, op.bias, *call.options)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shape", [(2, 4, 9, 10), (4, 9, 10)])
def test_it_is_the_dense_convolution_with_the_same_mask(pattern: str, geometry: dict[str, Any], shape: tuple[int, ...]) -> None:
    weight, _, packed = _packed(pattern, geometry["kernel"])
    op = SparseConv2d(packed, torch.randn(8), **geometry)
    x = torch.randn(shape)
    expected = _dense(op, x, weight, op.bias)
    assert_close(_call(op, x, list(packed.tensors.values())), expected)
    assert_close(op.reference(x), expected)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gradients_are_the_dense_ones_at_the_stored_positions(pattern: str, geometry: dict[str, Any]) -> None:
    weight, keep, packed = _packed(pattern, geometry["kernel"])
    op = SparseConv2d(packed, torch.randn(8, requires_grad=True), **geometry)
    values, *indices = packed.tensors.values()
    values = values.clone().requires_grad_()
    x = torch.randn(2, 4, 9, 10, requires_grad=True)
    _call(op, x, [values, *indices]).square().sum().backward()
    assert op.bias is not None
    dense, dense_bias, dense_x = (t.detach().clone().requires_grad_() for t in (weight, op.bias, x))
    _dense(op, dense_x, dense, dense_bias).square().sum().backward()
    assert x.grad is not None and dense_x.grad is not None
    assert_close(x.grad, dense_x.grad)
    assert op.bias.grad is not None and dense_bias.grad is not None
    assert_close(op.bias.grad, dense_bias.grad)
    assert values.grad is not None and dense.grad is not None
    assert_close(values.grad, packed.format.pack(matrix_of(dense.grad), keep).tensors["values"])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_torch_accepts_the_operator(layout: torch.memory_format) -> None:
    _, _, packed = _packed("unstructured", (3, 2))
    op = SparseConv2d(packed, torch.randn(8), **GEOMETRIES[2])
    call = op.torch_call("conv")
    values, *indices = packed.tensors.values()
    x = torch.randn(2, 4, 9, 10).contiguous(memory_format=layout).requires_grad_()
    torch.library.opcheck(call.target, (x, [values.clone().requires_grad_(), *indices], op.bias, *call.options))


def test_the_matrix_has_channels_innermost() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = matrix_of(weight)
    assert torch.equal(matrix[0, :3], weight[0, :, 0, 0])
    assert torch.equal(weight_of(matrix, (2, 2)), weight)
