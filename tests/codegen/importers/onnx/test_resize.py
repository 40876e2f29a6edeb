"""Resize against onnxruntime, all cases in one build."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.importers.onnx.test_operators import build
from tests.codegen.whole import check_onnx
from tests.graph.onnx_models import random

MODES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners")


def resize(output: str, *names: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Resize", ["x", *names], [output], name=output, **attributes)


def test_scales_as_they_were_given() -> None:
    """Those that give no whole sizes, some axes alone, and inputs that are there and empty, as exporters of opset 11 leave them."""
    nodes = [resize(f"linear_{mode}", "", "scales", mode="linear", coordinate_transformation_mode=mode) for mode in MODES]
    nodes += [
        resize(f"nearest_{mode}_{rounding}", "", "scales", coordinate_transformation_mode=mode, nearest_mode=rounding)
        for mode, rounding in (
            ("asymmetric", "floor"),
            ("half_pixel", "ceil"),
            ("half_pixel", "round_prefer_ceil"),
            ("half_pixel_symmetric", "floor"),
        )
    ]
    nodes += [
        resize("of_axes", "", "two", axes=[3, 2], mode="linear"),
        resize("empty", "nothing", "nothing", "sizes", mode="linear"),
        resize("empty_roi", "nothing", "whole", mode="nearest"),
    ]
    weights = {
        "scales": np.array([1, 1, 0.7, 1.9], np.float32),
        "two": np.array([1.9, 2], np.float32),
        "whole": np.array([1, 1, 2, 2], np.float32),
        "nothing": np.zeros(0, np.float32),
        "sizes": np.array([1, 2, 7, 9]),
    }
    x = random(1, 2, 5, 7)
    check_onnx(build(nodes, {"x": x}, weights), x)


def test_what_is_refused() -> None:
    proto = build([resize("y", "", "scales", mode="cubic")], {"x": random(1, 2, 5, 7)}, {"scales": np.array([1, 1, 0.7, 1.9], np.float32)})
    with pytest.raises(ModelError, match=r"Resize \(at 'y'\): a cubic resize by scales that do not give whole sizes"):
        import_onnx(proto)
