"""What converting says of a file besides its layers: products of integers that some CPUs get wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc


def model(weight: np.ndarray) -> onnx.ModelProto:
    """x -> quantized -> MatMulInteger; and a layer in float32 beside it."""
    constants = {"w": weight, "s": np.float32(0.05), "z": np.uint8(128), "v": np.ones((8, 8), np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "v"], ["h"], name="float"),
            helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"]),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["y"], name="integer"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [2, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(("largest", "said"), [(127, True), (64, False)])
def test_products_that_saturate_without_vnni_are_named_on_every_cpu(largest: int, said: bool) -> None:
    _, report = sparsecc.convert(model(np.full((8, 4), largest, np.int8)), {"passes": []})
    notes = [note for note in report.notes if "VNNI" in note]
    assert bool(notes) == said
    assert all("'integer'" in note for note in notes)
