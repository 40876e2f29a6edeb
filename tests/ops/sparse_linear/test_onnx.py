"""The function bodies decode what the formats pack, in every corner, in a stock onnxruntime."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.formats import storing
from sparsecc.formats.base import Format, Packed
from sparsecc.ops import layer_functions
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.patterns import parse
from tests.graph import onnx_models as models
from tests.ops.layers import model_of
from tests.tolerance import assert_close

PATTERNS = ["unstructured", "4x1", "16x1", "1x4", "2x8", "2:4", "1:2", "1:4", "3:8", "2:16", "5:32"]


def pack(format: Format, weight: torch.Tensor, keep: torch.Tensor) -> Packed:
    packed = format.pack(weight * keep, keep)
    assert torch.equal(packed.dense(), weight * keep)
    return packed


def check_linear(packed: Packed, bias: torch.Tensor | None, **versions: int) -> None:
    op = SparseLinear(packed, bias)
    x = torch.randn(2, 3, packed.cols)
    ours = models.run(model_of(op, ["a", "b", packed.cols], **versions), x=x.numpy())[0]
    assert_close(torch.from_numpy(ours), op.reference(x))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bias", [False, True])
def test_linear(pattern: str, bias: bool) -> None:
    format, weight = storing(parse(pattern)), torch.randn(32, 96)
    check_linear(pack(format, weight, format.pattern.project(weight.abs(), _sparsity(pattern))), torch.randn(32) if bias else None)


@pytest.mark.parametrize(("opset", "ir_version"), [(16, 8), (19, 9), (21, 10), (24, 11)])
@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "2:4"])
def test_bodies_fit_every_opset(pattern: str, opset: int, ir_version: int) -> None:
    format, weight = storing(parse(pattern)), torch.randn(8, 16)
    check_linear(pack(format, weight, format.pattern.project(weight.abs(), 0.5)), torch.randn(8), opset=opset, ir_version=ir_version)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4"])
@pytest.mark.parametrize("kept_rows", [[], [0], [15], [4, 5, 6, 7], list(range(12)), list(range(16))])
def test_empty_rows(pattern: str, kept_rows: list[int]) -> None:
    format, keep = storing(parse(pattern)), torch.zeros(16, 32, dtype=torch.bool)
    keep[kept_rows] = True
    if format.pattern.holds(keep) is not None:  # a 4x1 block needs all of its rows
        keep[:] = keep.reshape(4, 4, 32).any(1, keepdim=True).expand(4, 4, 32).reshape(16, 32)
    check_linear(pack(format, torch.randn(16, 32), keep), None)


def test_zeros_that_are_stored() -> None:
    format, keep = storing(parse("2:4")), parse("2:4").project(torch.rand(8, 16), 0.5)
    check_linear(pack(format, torch.zeros(8, 16), keep), None)


def test_more_columns_than_two_bytes_count() -> None:
    format, weight = storing(parse("unstructured")), torch.randn(2, 70_000)
    packed = pack(format, weight, format.pattern.project(weight.abs(), 0.999))
    assert packed.tensors["cols"].dtype == torch.int32
    check_linear(packed, None)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.sampled_from(PATTERNS), st.integers(1, 5), st.integers(1, 5), st.floats(0, 0.99), st.integers(0, 99))
def test_any_shape(pattern: str, down: int, across: int, sparsity: float, seed: int) -> None:
    torch.manual_seed(seed)
    format, height, width = storing(parse(pattern)), 1, 1
    if "x" in pattern:
        height, width = map(int, pattern.split("x"))
    elif ":" in pattern:
        width, sparsity = int(pattern.split(":")[1]), _sparsity(pattern)
    weight = torch.randn(down * height, across * width)
    check_linear(pack(format, weight, format.pattern.project(weight.abs(), sparsity)), None)


def test_names_say_format_and_bias() -> None:
    functions = layer_functions("SparseLinear")
    assert functions.op_type(storing(parse("2:4")), 8, 16, True) == "SparseLinear_nm_2_4"
    assert functions.op_type(storing(parse("4x1")), 8, 16, False) == "SparseLinear_block_4x1_nobias"


def _sparsity(pattern: str) -> float:
    if ":" not in pattern:
        return 0.6
    kept, group = map(int, pattern.split(":"))
    return 1 - kept / group
