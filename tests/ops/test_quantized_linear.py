"""quantized_linear in torch and as an ONNX function: what its reference says; traced, exported, with gradients straight through."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor

from sparsecc import formats, precisions
from sparsecc.ops import onnx_quantized
from sparsecc.ops.base import ONNX_DOMAIN
from sparsecc.ops.quantized_linear import QuantizedLinear
from sparsecc.precisions.base import Quantized
from tests.laws.members import PRECISIONS
from tests.tolerance import assert_close

ROWS, COLS = 8, 16
KEYS = [precision.key for precision in PRECISIONS]
FORMATS = [None, "block:1x4", "csr", "nm:2:4"]
every_scheme = pytest.mark.parametrize(("key", "format"), [(key, format) for key in KEYS for format in FORMATS])


def stored(key: str, format: str | None = None) -> Quantized:
    weight = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    if format is None:
        return precisions.from_key(key).quantize(weight, 3.0)
    found = formats.from_key(format)
    keep = found.project(weight.abs(), 0.5)
    return precisions.from_key(key).quantize(weight * keep, 3.0).packed(found, keep)


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
    assert_close(x.grad, weight.dense().sum(0).expand(3, -1))
    assert_close(bias.grad, torch.full((ROWS,), 3.0))


@every_scheme
def test_torch_accepts_the_operator(key: str, format: str | None) -> None:
    weight = stored(key, format)
    arguments = (torch.randn(3, COLS), list(weight.tensors.values()), torch.randn(ROWS), weight.scheme.key, ROWS, COLS, "fc")
    torch.library.opcheck(torch.ops.sparsecc.quantized_linear.default, arguments)


@every_scheme
@pytest.mark.parametrize("opset", [16, 18])
@pytest.mark.parametrize("bias", [torch.linspace(-1, 1, ROWS), None], ids=["bias", "no_bias"])
def test_a_stock_onnxruntime_computes_it(key: str, format: str | None, opset: int, bias: Tensor | None) -> None:
    weight, x = stored(key, format), torch.randn(5, COLS)
    x[1] = 0
    node = onnx_quantized.call(QuantizedLinear(weight, bias), "fc")
    parts = {**weight.tensors, **({"bias": bias} if bias is not None else {})}
    inputs = [ir.Value(name="x", shape=ir.Shape((5, COLS)), type=ir.TensorType(ir.DataType.FLOAT))]
    constants = [ir.Value(name=name, const_value=ir.tensor(tensor, name=name)) for name, tensor in parts.items()]
    made = ir.node(node.op_type, [*inputs, *constants], node.attributes, domain=ONNX_DOMAIN, num_outputs=1)
    made.outputs[0].name, made.outputs[0].shape, made.outputs[0].dtype = "y", ir.Shape((5, ROWS)), ir.DataType.FLOAT
    graph = ir.Graph(inputs, made.outputs, nodes=[made], initializers=constants, opset_imports={"": opset, ONNX_DOMAIN: 1}, name="g")
    function = onnx_quantized.function("QuantizedLinear", weight.scheme, ROWS, COLS, bias is not None, opset)
    proto = ir.serde.serialize_model(ir.Model(graph, ir_version=9, functions=[function]))
    onnx.checker.check_model(proto)
    [found] = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x.numpy()})
    assert_close(torch.from_numpy(np.asarray(found)), QuantizedLinear(weight, bias).reference(x))
