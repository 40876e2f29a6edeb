from __future__ import annotations

import math

import numpy as np
import torch
from onnx import TensorProto, helper

from tests.codegen.importers.test_onnx_operators import build
from tests.codegen.whole import check_onnx, compare, random

VALUES = torch.cat([random(64), torch.tensor([math.inf, -math.inf, 3e38, 1 + 2**-8, 1 + 3 * 2**-8, 0.0])])


def test_there_and_back_rounds() -> None:
    found = compare({"cast": (lambda x: (x.to(torch.bfloat16).float(), x.bfloat16().float() * 2), (VALUES,))})
    assert all(torch.equal(ours, oracle) for ours, oracle in found["cast"])


def test_onnx() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16), helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT)]
    proto = build(nodes, {"x": VALUES.numpy()}, {})
    del proto.graph.output[0]  # which numpy has no type for
    check_onnx(proto, np.clip(VALUES.numpy(), -1e30, 1e30))
