from __future__ import annotations

import numpy as np
import pytest

from sparsecc.graph.onnx.contrib import take_apart
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.onnx.kept import reason
from sparsecc.graph.sites import Conv2d, Linear
from tests.graph.onnx.contrib.apart import check, check_half, floats, integers, single

X = floats(2, 5, 16)


def test_fused_matmul() -> None:
    check("FusedMatMul", "x w", {"x": X}, {"w": floats(8, 16)}, transB=1, alpha=0.5)
    check("FusedMatMul", "x w", {"x": X, "w": floats(2, 5, 7)}, transA=1)


def test_fused_gemm_and_conv() -> None:
    how = {"activation": "LeakyRelu", "activation_alpha": 0.1}
    check("FusedGemm", "x w b", {"x": floats(3, 16)}, {"w": floats(8, 16), "b": floats(8)}, transB=1, **how)
    kernel = {"w": floats(4, 3, 3, 3), "b": floats(4)}
    check("FusedConv", "x w b z", {"x": floats(1, 3, 8, 8), "z": floats(1, 4, 8, 8)}, kernel, activation="Relu", pads=[1, 1, 1, 1])
    check("FusedConv", "x w b", {"x": floats(1, 3, 8, 8)}, kernel, activation="Clip", activation_params=[0.0, 6.0])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("cols", [64, 48])  # whole blocks, and one that is cut
def test_weights_of_few_bits(bits: int, zeros: bool, cols: int) -> None:
    weights = {"w": integers(24, 2, 32 * bits // 8, high=256), "s": floats(48)}
    if zeros:
        weights["z"] = integers(24 * ((2 * bits + 7) // 8), high=256)
    inputs = "x w s z" if zeros else "x w s"
    proto = check("MatMulNBits", inputs, {"x": floats(3, cols)}, weights, K=cols, N=24, bits=bits, block_size=32)
    assert [node.op_type for node in proto.graph.node] == ["MatMul", "Identity"]


def test_a_layer_keeps_its_name_and_is_a_site_when_converted() -> None:
    proto = single("FusedMatMul", "x w", {"x": X}, {"w": floats(16, 32)}, alpha=0.5)
    assert [(site.name, site.shape) for site in OnnxGraph.from_proto(proto).sites(Linear)] == [("only", (32, 16))]
    proto = single("FusedConv", "x w", {"x": floats(1, 3, 8, 8)}, {"w": floats(16, 3, 3, 3)}, activation="Relu")
    assert [site.shape for site in OnnxGraph.from_proto(proto).sites(Conv2d)] == [(16, 3, 3, 3)]


def test_what_stays_says_why() -> None:
    proto = single("FusedMatMul", "x w", {"x": X, "w": floats(2, 7, 16)}, transBatchA=1)
    assert not take_apart(proto)
    assert reason(proto.graph.node[0]) == "it exchanges axes of the batch"
    proto = single("MatMulNBits", "x w s", {"x": X, "w": np.zeros((8, 1, 8), np.uint8)}, {"s": floats(8)}, K=16, N=8, block_size=16)
    assert not take_apart(proto)
    assert reason(proto.graph.node[0]) == "its weight is no constant of the model"


def test_float16() -> None:
    check_half("FusedMatMul", "x w", {"x": X}, {"w": floats(8, 16)}, transB=1, alpha=0.5)
    check_half("FusedMatMul", "x w", {"x": X}, {"w": floats(16, 8)}, alpha=0.5)
    check_half("GemmFastGelu", "x w b", {"x": X}, {"w": floats(16, 8), "b": floats(8)})
    few = {"w": integers(24, 2, 16, high=256), "s": floats(48) * 0.1}
    check_half("MatMulNBits", "x w s", {"x": floats(3, 64)}, few, K=64, N=24, bits=4, block_size=32)


def test_a_node_without_what_it_needs_says_so() -> None:
    proto = single("MatMulNBits", "x w s", {"x": floats(3, 64)}, {"w": integers(24, 2, 16), "s": floats(48)}, N=24, bits=4)
    assert not take_apart(proto)
    assert reason(proto.graph.node[0]) == "it has no attribute 'block_size'"
