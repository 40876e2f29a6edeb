"""Weights are small enough that no pair of products saturates in onnxruntime's kernels for CPUs without VNNI."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.contrib.apart import check, floats, integers

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
