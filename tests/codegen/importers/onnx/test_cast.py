from __future__ import annotations

import itertools

import numpy as np
from onnx import TensorProto, helper

from tests.codegen.importers.onnx.test_operators import build
from tests.codegen.importers.test_bfloat16 import VALUES
from tests.codegen.whole import check_onnx

WHOLE = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64")


def test_bfloat16_there_and_back() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16), helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT)]
    proto = build(nodes, {"x": VALUES.numpy()}, {})
    del proto.graph.output[0]  # which numpy has no type for
    check_onnx(proto, np.clip(VALUES.numpy(), -1e30, 1e30))


def test_integers_of_floats() -> None:
    """What does not fit has the value that x86 gives it, in onnxruntime as here."""
    values = np.array([0.5, -1.7, 300.2, -300.9, 127.9, 128.5, 65537.3, 70000, -70000, 1e9, -1e9, 2.1e9, -0.0, 0.0, 1, -1], np.float32)
    nodes = [helper.make_node("Cast", ["x"], [name], to=getattr(TensorProto, name)) for name in WHOLE]
    check_onnx(build(nodes, {"x": values}, {}), values)


def test_a_chain_of_casts_compiles_soon() -> None:
    """With four reads of each input it is fused into an expression of 4^8 parts."""
    names = ["x", *(f"v{i}" for i in range(16))]
    nodes = []
    for i, (before, after) in enumerate(itertools.pairwise(names)):
        nodes.append(helper.make_node("Cast", [before], [after], to=TensorProto.INT32 if i % 2 == 0 else TensorProto.FLOAT))
    proto = build(nodes, {"x": VALUES.numpy()[:8]}, {})
    del proto.graph.output[:-1]
    check_onnx(proto, VALUES.numpy()[:8])
