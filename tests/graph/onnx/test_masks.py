"""Causal masks, constant and computed, and those that are nearly so."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from sparsecc.graph.onnx.masks import is_causal
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node

LOWER = np.tri(6, dtype=bool)
BLOCKED = np.where(LOWER, 0, -np.inf).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (LOWER, True),
        (BLOCKED, True),
        (BLOCKED.reshape(1, 1, 6, 6), True),
        (np.where(LOWER, 0, -1e4).astype(np.float32), True),
        (np.where(LOWER, 0, np.finfo(np.float32).min), True),
        (np.where(LOWER, 0, -1).astype(np.float32), False),
        (np.where(LOWER, 0.5, -np.inf).astype(np.float32), False),
        (np.where(LOWER.T, 0, -np.inf).astype(np.float32), False),
        (np.where(np.tri(6, k=1), 0, -np.inf).astype(np.float32), False),
        (~LOWER, False),
        (BLOCKED[:4], False),
        (np.stack([BLOCKED, BLOCKED]), False),
        (np.float32(0), False),
        (np.array([[0]], np.float32), False),
    ],
)
def test_constants(mask: np.ndarray, causal: bool) -> None:
    proto = models.model([node("Identity", "mask", "y")], {}, {"y": list(mask.shape)}, {"mask": mask})
    assert is_causal(ir.serde.deserialize_model(proto).graph.initializers["mask"]) == causal


FILLED = helper.make_node("ConstantOfShape", ["shape"], ["ones"], value=numpy_helper.from_array(np.array([1], np.float32)))
EXPANDED = node("Expand", "one shape", "ones")


@pytest.mark.parametrize(
    ("nodes", "causal"),
    [
        ([FILLED, node("Trilu", "ones", "t", upper=0), node("Equal", "t zero", "b"), node("Where", "b low zero", "y")], True),
        ([EXPANDED, node("Trilu", "ones", "t", upper=0), node("Cast", "t", "b", to=9), node("Where", "b zero low", "y")], True),
        ([EXPANDED, node("Trilu", "ones k1", "t", upper=1), node("Mul", "t low", "y")], True),
        ([EXPANDED, node("Trilu", "ones", "t", upper=1), node("Mul", "t low", "y")], False),
        ([EXPANDED, node("Trilu", "ones", "t", upper=0), node("Cast", "t", "b", to=9), node("Where", "b low zero", "y")], False),
        ([EXPANDED, node("Mul", "ones low", "y")], False),
        ([node("Trilu", "given", "t", upper=0), node("Mul", "t low", "y")], False),
    ],
)
def test_computed(nodes: list, causal: bool) -> None:
    weights = {"one": np.float32(1), "zero": np.float32(0), "low": np.float32(-1e9), "k1": np.int64(1)}
    used = {name for op in nodes for name in op.input}
    inputs = {name: [2] for name in ("shape", "given") if name in used}
    proto = models.model(nodes, inputs, {"y": [None, None]}, {name: weights[name] for name in weights if name in used})
    assert is_causal(ir.serde.deserialize_model(proto).graph.outputs[0]) == causal
