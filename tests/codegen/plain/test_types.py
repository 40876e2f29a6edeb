from __future__ import annotations

import numpy as np
from onnx import helper

from tests.codegen.importers.onnx.test_operators import build
from tests.codegen.whole import check_onnx


def test_booleans_and_integers_against_onnxruntime() -> None:
    node = helper.make_node
    nodes = [
        node("Equal", ["p", "q"], ["same"]),
        node("ReduceMax", ["p"], ["any"], keepdims=0),
        node("ReduceMin", ["p"], ["all"], keepdims=0),
        node("ReduceMean", ["i"], ["mean"]),
        node("Pow", ["i", "n"], ["power"]),
    ]
    feeds = {
        "p": np.array([True, False, True, False]),
        "q": np.array([True, True, False, False]),
        "i": np.array([-3, 2, 0, 5], np.int32),
        "n": np.array([2, 3, 1, 0], np.int32),
    }
    check_onnx(build(nodes, feeds, {}), *feeds.values())
