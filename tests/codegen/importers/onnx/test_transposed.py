"""Transposed convolutions that state the size of their result against onnxruntime, in one build."""

from __future__ import annotations

import pytest
from onnx import helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.importers.onnx.test_operators import build
from tests.codegen.whole import check_onnx
from tests.graph.onnx_models import random


def test_the_size_of_the_result() -> None:
    kinds = [
        {"output_shape": [19, 21], "auto_pad": "SAME_UPPER"},
        {"output_shape": [18, 20], "auto_pad": "SAME_LOWER"},
        {"output_shape": [18, 20]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER", "dilations": [2, 1]},
        {"auto_pad": "VALID"},
        {"pads": [1, 0, 0, 1], "output_padding": [1, 1]},
    ]
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], [f"y{i}"], strides=[2, 2], **kind) for i, kind in enumerate(kinds)]
    x = random(1, 3, 9, 10)
    check_onnx(build(nodes, {"x": x}, {"w": random(3, 4, 3, 4)}), x)


def test_a_size_beyond_the_result() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", strides=[2, 2], output_shape=[40, 40])
    with pytest.raises(ModelError, match=r"ConvTranspose \(at 'up'\): its output_shape \[40, 40\] is larger than all that it computes"):
        import_onnx(build([node], {"x": random(1, 3, 9, 10)}, {"w": random(3, 4, 3, 3)}))
