"""Weights are small enough that no pair of products saturates in onnxruntime's kernels for CPUs without VNNI."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sparsecc.graph.onnx.contrib import take_apart
from sparsecc.graph.onnx.kept import reason
from tests.graph.onnx.contrib.apart import check, check_half, floats, integers, single
from tests.graph.onnx_models import run

WEIGHT = integers(16, 8, low=-60, high=60, dtype=np.int8)
BYTES = integers(3, 16)


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


ZERO = np.array(128, np.uint8)
FROM, TO = {"xs": scale(0.02), "xz": ZERO}, {"s": scale(0.05), "z": ZERO}
OTHER = {"w": WEIGHT, "ws": scale(0.01), "wz": np.array(0, np.int8)}


def test_products_of_integers_that_end_as_floats() -> None:
    check("DynamicQuantizeMatMul", "x w ws wz b", {"x": floats(3, 16)}, OTHER | {"b": floats(8)})
    several = OTHER | {"ws": np.abs(floats(8)) * 0.01, "xs": scale(0.03), "xz": ZERO}
    check("MatMulIntegerToFloat", "x w xs ws xz", {"x": BYTES}, {name: several[name] for name in ("w", "xs", "ws", "xz")})


def test_attention() -> None:
    weights = FROM | {"w": integers(16, 48, low=-60, high=60, dtype=np.int8), "b": floats(48), "ws": scale(0.01), "wz": OTHER["wz"]}
    feeds = {"x": integers(2, 5, 16), "m": np.array([3, 5], np.int32)}
    check("QAttention", "x w b xs ws m xz wz", feeds, weights, num_heads=4)


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
def test_two_tensors(op_type: str) -> None:
    second = {"b": BYTES[:1], "bs": scale(0.03), "bz": ZERO}
    check(op_type, "x xs xz b bs bz s z", {"x": BYTES}, FROM | second | TO, steps=1)


@pytest.mark.parametrize(("op_type", "attributes"), [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.1})])
def test_one_tensor(op_type: str, attributes: dict[str, float]) -> None:
    check(op_type, "x xs xz s z", {"x": BYTES}, FROM | {"s": scale(1 / 100), "z": np.array(0, np.uint8)}, steps=1, **attributes)


def test_pools_and_concatenation() -> None:
    image = integers(2, 3, 4, 4)
    check("QLinearGlobalAveragePool", "x xs xz s z", {"x": image}, FROM | TO, steps=1)
    second = {"bs": scale(0.03), "bz": ZERO}
    check("QLinearConcat", "s z x xs xz b bs bz", {"x": BYTES, "b": BYTES[:, :4]}, FROM | second | TO, axis=1, steps=1)


def test_layers() -> None:
    check("QLinearMatMul", "x xs xz w ws wz s z", {"x": BYTES}, FROM | OTHER | TO, domain="", steps=1)
    kernel = {"w": integers(4, 3, 3, 3, low=-60, high=60, dtype=np.int8), "ws": np.abs(floats(4)) * 0.01, "wz": np.zeros(4, np.int8)}
    bias = {"b": integers(4, low=-999, high=999, dtype=np.int32)}
    inputs = "x xs xz w ws wz s z b"
    check("QLinearConv", inputs, {"x": integers(1, 3, 6, 6)}, FROM | kernel | TO | bias, domain="", steps=1, pads=[1, 1, 1, 1])
    gemm = OTHER | {"w": np.ascontiguousarray(WEIGHT.T), "c": integers(8, low=-99, high=99, dtype=np.int32)}
    check("QGemm", "x xs xz w ws wz c s z", {"x": BYTES}, FROM | gemm | TO, transB=1, steps=1)
    whole = {"w": integers(4, 3, 3, 3, high=200), "xz": np.array(3, np.uint8)}
    check("ConvInteger", "x w xz", {"x": integers(1, 3, 6, 6)}, whole, domain="", pads=[1, 1, 1, 1])


def test_the_same_operator_of_the_standard() -> None:
    check("DequantizeLinear", "x xs xz", {"x": BYTES}, FROM)
    check("QuantizeLinear", "x xs xz", {"x": floats(3, 16)}, FROM)


def test_types_that_the_standard_lacks_in_this_opset() -> None:
    for dtype, zero in ((np.uint16, 30000), (np.int16, -7)):
        numbers = integers(3, 16, low=-9000 if dtype == np.int16 else 0, high=32000, dtype=dtype)
        check("DequantizeLinear", "x s z", {"x": numbers}, {"s": scale(0.01), "z": np.array(zero, dtype)})
        check("QuantizeLinear", "x s z", {"x": floats(3, 16, scale=1e3)}, {"s": scale(0.1), "z": np.array(zero, dtype)}, steps=1)
    several = {"s": np.abs(floats(16)) * 0.01, "z": integers(16, high=99, dtype=np.uint16)}
    check("DequantizeLinear", "x s z", {"x": integers(3, 16, dtype=np.uint16)}, several, axis=1)
    check_half("DequantizeLinear", "x s z", {"x": BYTES}, {"s": scale(0.01), "z": ZERO})


@pytest.mark.parametrize(("axis", "opset"), [(1, 12), (2, 12), (1, 13), (-1, 13)])
def test_a_softmax_means_what_its_opset_says(axis: int, opset: int) -> None:
    small = FROM | {"s": scale(1 / 256), "z": np.array(0, np.uint8)}
    check("QLinearSoftmax", "x xs xz s z", {"x": integers(2, 3, 4)}, small, axis=axis, opset=opset, steps=1)


def convolved(products: int, **weights: np.ndarray) -> onnx.ModelProto:
    return single("ConvInteger", "x w xz wz" if "wz" in weights else "x w", {"x": integers(1, products, 1, 1)}, weights, domain="")


@pytest.mark.parametrize(("products", "parts"), [(400, 1), (4000, 2), (9000, 3)])
def test_sums_that_float32_does_not_hold_are_several(products: int, parts: int) -> None:
    """All numbers are the largest, and odd, so that a sum which is rounded shows."""
    x, w = np.full((1, products, 1, 1), 255, np.uint8), np.full((2, products, 1, 1), 127, np.int8)
    proto = convolved(products, w=w)
    assert take_apart(proto)
    assert [node.op_type for node in proto.graph.node].count("Conv") == parts
    assert run(proto, x=x)[0].ravel().tolist() == [255 * 127 * products] * 2
    zeros = {"xz": np.array(3, np.uint8), "wz": np.array([1, -2], np.int8)}
    shifted = convolved(products, w=w, **zeros)
    assert take_apart(shifted)
    assert run(shifted, x=x)[0].ravel().tolist() == [252 * 126 * products, 252 * 129 * products]


def test_too_many_products_stay() -> None:
    proto = convolved(70_000, w=np.ones((1, 70_000, 1, 1), np.int8))
    assert not take_apart(proto)
    assert reason(proto.graph.node[0]) == "it adds more products than float32 can hold exactly"
