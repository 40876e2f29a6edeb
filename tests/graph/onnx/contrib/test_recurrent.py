from __future__ import annotations

import numpy as np
import onnx

from sparsecc.graph.onnx.contrib import take_apart
from tests.graph.onnx.contrib.apart import floats, integers, single
from tests.graph.onnx_models import run

INPUTS = "x w r b _ _ _ _ ws wz rs rz"


def lstm() -> onnx.ModelProto:
    weights = {"w": integers(1, 6, 16, high=100), "r": integers(1, 4, 16, high=100), "b": floats(1, 32)}
    weights |= {"ws": np.array([0.01], np.float32), "rs": np.array([0.02], np.float32), "wz": integers(1), "rz": integers(1)}
    return single("DynamicQuantizeLSTM", INPUTS, {"x": floats(3, 1, 6)}, weights, "y h c", hidden_size=4)


def test_sizes_behind_a_quantized_lstm_are_known() -> None:
    proto, x = lstm(), floats(3, 1, 6)
    expected = run(proto, x=x)
    assert take_apart(proto)
    assert not take_apart(proto)  # it stays, once
    assert all(np.array_equal(ours, oracle) for ours, oracle in zip(run(proto, x=x), expected, strict=True))
    for value in proto.graph.output:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in onnx.shape_inference.infer_shapes(proto).graph.output]
    assert shapes == [[3, 1, 1, 4], [1, 1, 4], [1, 1, 4]]


def test_sizes_that_may_change_stay_open() -> None:
    proto = lstm()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "steps"
    assert not take_apart(proto)
