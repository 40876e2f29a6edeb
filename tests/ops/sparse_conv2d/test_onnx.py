"""The function's body against the reference, in a stock onnxruntime."""

from __future__ import annotations

import pytest
import torch

from sparsecc.formats import storing
from sparsecc.ops import layer_functions
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d
from sparsecc.patterns import parse
from tests.graph import onnx_models as models
from tests.ops.layers import model_of
from tests.tolerance import assert_close


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "2:4"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kernel", "geometry"), [((1, 1), {}), ((3, 2), {"stride": (2, 1), "padding": (1, 0, 2, 1), "dilation": (1, 2)})])
def test_convolution(pattern: str, bias: bool, kernel: tuple[int, int], geometry: dict) -> None:
    format, weight = storing(parse(pattern)), torch.randn(8, kernel[0] * kernel[1] * 8)
    keep = format.pattern.project(weight.abs(), 0.5)
    packed = format.pack(weight * keep, keep)
    op = SparseConv2d(packed, torch.randn(8) if bias else None, kernel, **geometry)
    x = torch.randn(2, 8, 9, 10)
    ours = models.run(model_of(op, ["n", 8, "h", "w"]), x=x.numpy())[0]
    assert_close(torch.from_numpy(ours), op.reference(x))


def test_names_say_format_and_bias() -> None:
    assert layer_functions("SparseConv2d").op_type(storing(parse("4x1")), 8, 16, False) == "SparseConv2d_block_4x1_nobias"
