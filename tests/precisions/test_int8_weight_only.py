"""What is stored, and what an ONNX file says."""

from __future__ import annotations

import pytest
import torch

from sparsecc import precisions
from sparsecc.ops import layer_functions
from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from tests.graph import onnx_models as models
from tests.ops.layers import model_of
from tests.tolerance import assert_close


def test_symmetric_numbers_are_stored_as_they_are() -> None:
    weight = torch.tensor([[127.5, -127.5, 3.0, 0.0]])
    stored = precisions.from_key("int8_weight_only:row").quantize(weight)
    assert stored.tensors["values"].tolist() == [[127, -128, 3, 0]]
    assert stored.tensors["scales"].tolist() == [[1.0]]


def test_inputs_stay_as_they_are_where_int8_rounds_them() -> None:
    weight, x = torch.randn(16, 64), torch.randn(3, 64)
    alone, both = (precisions.usual(name).quantize(weight) for name in ("int8_weight_only", "int8"))
    assert torch.equal(alone.scheme.precision.round_inputs(x, alone.scales), x)
    assert not torch.equal(both.scheme.precision.round_inputs(x, both.scales), x)


def test_a_file_multiplies_floats() -> None:
    functions = layer_functions("QuantizedLinear")
    kinds = [n.op_type for n in functions.function(precisions.scheme_from_key("int8_weight_only:row"), 8, 64, False, 18)]
    assert kinds[-1] == "MatMul"
    assert not {"DequantizeLinear", "MatMulNBits", "MatMulInteger"} & {*kinds}


@pytest.mark.parametrize("options", ["row", "row:asymmetric", "64", "32:asymmetric"])
@pytest.mark.parametrize("cols", [31, 200])
def test_onnxruntime_computes_what_torch_does_whatever_the_sizes(options: str, cols: int) -> None:
    op = QuantizedLinear(precisions.from_key(f"int8_weight_only:{options}").quantize(torch.randn(7, cols) + 1), torch.randn(7))
    x = torch.randn(5, cols)
    assert_close(torch.from_numpy(models.run(model_of(op, [5, cols]), x=x.numpy())[0]), op.reference(x))
