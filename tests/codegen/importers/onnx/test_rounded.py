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

STEPS, BATCH, INPUTS, HIDDEN = 4, 2, 10, 12


def layer(
    place: int, given: str, directions: int = 1, rows: int = 1, dtype: Any = np.uint8, **how: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """given: names of the inputs after x, W and R.  rows: that have a scale of their own. Outputs are y0, h0 and c0 for the first layer."""
    rng, size = np.random.default_rng(place), (directions,) if rows == 1 else (directions, rows)
    low, high = np.iinfo(dtype).min // 2, np.iinfo(dtype).max // 2  # so that no pair of products saturates in onnxruntime
    scales, zeros = (
        (rng.uniform(0.002, 0.01, size).astype(np.float32) for _ in range(2)),
        np.full(size, 60 if dtype is np.uint8 else 0, dtype),
    )
    weights = {
        f"{name}{place}": rng.integers(low, high, (directions, width, 4 * HIDDEN)).astype(dtype)
        for name, width in (("W", INPUTS), ("R", HIDDEN))
    }
    weights |= {f"B{place}": random(directions, 8 * HIDDEN, seed=place), f"P{place}": random(directions, 3 * HIDDEN, seed=place)}
    weights |= dict(zip((f"ws{place}", f"rs{place}"), scales, strict=True)) | {f"wz{place}": zeros, f"rz{place}": zeros}
    names = [name.replace("_", "").replace("*", str(place)) for name in f"x W* R* {given} ws* wz* rs* rz*".split()]
    outputs = [f"{name}{place}" for name in ("y", "h", "c")]
    node = helper.make_node("DynamicQuantizeLSTM", names, outputs, name=f"lstm{place}", domain="com.microsoft", hidden_size=HIDDEN, **how)
    return node, {name: array for name, array in weights.items() if name in names}


def model(layers: list[Any], feeds: dict[str, np.ndarray], more: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    proto = build([*(node for node, _ in layers), *more], feeds, {name: array for _, found in layers for name, array in found.items()})
    for value in proto.graph.output:  # nobody infers what this operator gives
        if not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return proto


def test_it_computes_what_onnxruntime_does() -> None:
    """Both directions with states and peepholes, one without a bias, scales by row; and scales of what is zero everywhere."""
    both = {"directions": 2, "direction": "bidirectional"}
    layers = [layer(1, "B* _ h c P*", **both), layer(2, "_ _ _ _ _", rows=4 * HIDDEN, dtype=np.int8, direction="reverse")]
    more = [helper.make_node("DynamicQuantizeLinear", [name], [f"{name}_{part}" for part in "qsz"]) for name in ("x", "nothing", "below")]
    feeds = {"x": random(STEPS, BATCH, INPUTS), "h": random(2, BATCH, HIDDEN), "c": random(2, BATCH, HIDDEN)}
    feeds |= {"nothing": np.zeros((2, 3), np.float32), "below": -np.abs(random(2, 3))}
    check_onnx(model(layers, feeds, tuple(more)), *feeds.values())


def test_what_is_refused_names_the_layer() -> None:
    with pytest.raises(ModelError, match=r"DynamicQuantizeLSTM \(at 'lstm0'\): clip and input_forget are not supported"):
        import_onnx(model([layer(0, "B* _ _ _ _", clip=1.0)], {"x": random(STEPS, BATCH, INPUTS)}))
