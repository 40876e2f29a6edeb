"""How two numbers lie in a byte, and what an ONNX file says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sparsecc import precisions
from sparsecc.ops import layer_functions
from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from tests.graph import onnx_models as models
from tests.ops.layers import model_of
from tests.tolerance import assert_close

FUNCTIONS = layer_functions("QuantizedLinear")


def test_the_first_of_two_is_in_the_lower_half_of_a_byte() -> None:
    weight = torch.tensor([[7.5, -7.5, 1.0, -1.0, 2.0]])
    stored = precisions.from_key("int4:row").quantize(weight)
    assert stored.tensors["values"].tolist() == [[0x87, 0xF1, 0x02]]


def test_what_is_stored_is_counted_from_the_zero_of_the_group() -> None:
    weight = torch.tensor([[-5.0, 10.0, 0.0, 3.0]])
    stored = precisions.from_key("int4:row:asymmetric").quantize(weight)
    assert stored.tensors["zeros"].tolist() == [[-3]]
    assert stored.values().tolist() == [[16 - 5, 10, 0, 3]]


@pytest.mark.parametrize("key", ["int4:128", "int4:32:asymmetric", "int4:row", "int4:64/nm:2:4"])
def test_a_file_multiplies_by_onnxruntimes_operator(key: str) -> None:
    [node] = [node for node in FUNCTIONS.function(precisions.scheme_from_key(key), 8, 64, False, 18) if node.op_type == "MatMulNBits"]
    assert node.domain == "com.microsoft"
    assert node.attributes["accuracy_level"].as_int() == 1  # inputs as they are
    assert node.attributes["bits"].as_int() == 4


def test_a_dense_weight_is_not_taken_apart_in_a_file() -> None:
    kinds = [node.op_type for node in FUNCTIONS.function(precisions.scheme_from_key("int4:128"), 8, 64, False, 18)]
    assert not {"Gather", "Cast", "Transpose"} & {*kinds}


@pytest.mark.parametrize("options", ["128", "32", "row", "64:asymmetric", "row:asymmetric"])
@pytest.mark.parametrize("cols", [31, 64, 200])
@pytest.mark.parametrize("leading", [(5,), (2, 3)], ids=str)
def test_onnxruntime_computes_what_torch_does_whatever_the_sizes(options: str, cols: int, leading: Sequence[int]) -> None:
    weight = torch.randn(7, cols)
    weight[:, ::4] = 0
    op, x = QuantizedLinear(precisions.from_key(f"int4:{options}").quantize(weight), torch.randn(7)), torch.randn(*leading, cols)
    found = models.run(model_of(op, list(x.shape)), x=x.numpy())[0]
    assert found.dtype == np.float32
    assert_close(torch.from_numpy(found), op.reference(x))
