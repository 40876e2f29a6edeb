"""The function's body against the reference, in a stock onnxruntime."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from tests.graph import onnx_models as models
from tests.ops.layers import model_of
from tests.ops.quantized_linear.schemes import COLS, ROWS, every_scheme, stored
from tests.tolerance import assert_close


@every_scheme
@pytest.mark.parametrize("opset", [16, 18])
@pytest.mark.parametrize("bias", [torch.linspace(-1, 1, ROWS), None], ids=["bias", "no_bias"])
def test_a_stock_onnxruntime_computes_it(key: str, format: str | None, opset: int, bias: Tensor | None) -> None:
    op, x = QuantizedLinear(stored(key, format), bias), torch.randn(5, COLS)
    x[1] = 0
    found = models.run(model_of(op, [5, COLS], opset), x=x.numpy())[0]
    assert_close(torch.from_numpy(found), op.reference(x))
