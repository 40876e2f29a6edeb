"""ONNX's Attention operator against onnxruntime, all forms in one build."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.whole import check_onnx
from tests.graph.onnx_models import random

HEADS = {"q": (2, 2, 12, 4), "k": (2, 2, 16, 4), "v": (2, 2, 16, 4)}
FLAT = {"q": (2, 12, 8), "k": (2, 16, 8), "v": (2, 16, 8)}
FEWER = {"q": (1, 4, 12, 4), "k": (1, 2, 16, 4), "v": (1, 2, 16, 4)}
MASK = np.random.default_rng(0).random((2, 1, 12, 16)) > 0.4
MASK[..., 0] = True

Form = tuple[dict[str, tuple[int, ...]], dict[str, Any], np.ndarray | None]
FORMS: dict[str, Form] = {
    "plain": (HEADS, {}, None),
    "scaled": (HEADS, {"scale": 0.3}, None),
    "causal": (HEADS, {"is_causal": 1}, None),
    "mask": (HEADS, {}, MASK),
    "mask that is added": (HEADS, {}, random(2, 1, 12, 16)),
    "heads in the features": (FLAT, {"q_num_heads": 2, "kv_num_heads": 2}, None),
    "fewer heads of k and v": (FEWER, {}, None),
}


def model(forms: dict[str, Form], extra: int = 0) -> onnx.ModelProto:
    nodes, inputs, outputs = [], [], []
    for number, (shapes, attributes, mask) in enumerate(forms.values()):
        names = [f"{name}{number}" for name in shapes]
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names, shapes.values(), strict=True)
        ]
        if mask is not None:
            names.append(f"mask{number}")
            inputs.append(helper.make_tensor_value_info(names[-1], helper.np_dtype_to_tensor_dtype(mask.dtype), mask.shape))
        nodes.append(helper.make_node("Attention", names, [f"y{number}"], name=f"attention{number}", **attributes))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, shapes["q"]))
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def feeds(forms: dict[str, Form]) -> list[np.ndarray]:
    found = []
    for shapes, _, mask in forms.values():
        found += [random(*shape, seed=seed) for seed, shape in enumerate(shapes.values())]
        found += [] if mask is None else [mask]
    return found


def test_against_onnxruntime() -> None:
    check_onnx(model(FORMS), *feeds(FORMS))


def test_softcap_is_refused() -> None:
    with pytest.raises(ModelError, match="softcap or past keys is not supported"):
        import_onnx(model({"capped": (HEADS, {"softcap": 2.0}, None)}), "m.onnx")


def test_no_scale_is_not_a_scale_of_zero() -> None:
    found = import_onnx(model({"zero": (HEADS, {"scale": 0.0}, None), "none": (HEADS, {}, None)}))
    assert [p.attributes["scale"] for p in found.placeholders.values()] == [0.0, 0.5]
