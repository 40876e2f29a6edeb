from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.report.example import REPORT
from tests.runtime import tiny


def test_a_model_and_what_a_recipe_would_do(call, model, recipe, tmp_path):
    code, text, errors = call("explain", model)
    assert (code, errors) == (0, [])
    assert "fc1  Linear 96×64" in text and "skipped: no zeros" in text
    code, text, _ = call("explain", model, "--recipe", recipe, "--json", tmp_path / "r.json")
    assert code == 0 and "sparse: packed in" in text
    assert len(json.loads((tmp_path / "r.json").read_text())["sites"]) == 2


def test_a_recipe_that_calibrates(call, model, tmp_path):
    (tmp_path / "r.yaml").write_text("passes: [{prune: {criterion: wanda}}]")
    code, _, [error] = call("explain", model, "--recipe", tmp_path / "r.yaml")
    assert code == 2 and "--calib" in error
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32))
    code, text, errors = call("explain", model, "--recipe", tmp_path / "r.yaml", "--calib", tmp_path / "c.npz")
    assert (code, errors) == (0, []) and "prune: unstructured, 50.0% zeros, by wanda" in text


def test_a_report(call, tmp_path):
    REPORT.to_json(tmp_path / "r.json")
    code, text, _ = call("explain", tmp_path / "r.json")
    assert code == 0 and all(site.reason in text for site in REPORT.sites)


def test_an_artifact(call, tmp_path):
    tiny.compiled().save(tmp_path / "m.sparsecc")
    code, text, _ = call("explain", tmp_path / "m.sparsecc")
    assert code == 0 and "fc  Linear 5×24" in text


def test_other_json_is_refused(call, tmp_path):
    (tmp_path / "r.json").write_text('{"a": 1}')
    code, _, [error] = call("explain", tmp_path / "r.json")
    assert code == 2 and "is no report of sparsecc: Report has no field 'a'" in error


def test_a_recipe_comes_too_late_for_what_was_compiled(call, recipe, tmp_path):
    tiny.compiled().save(tmp_path / "m.sparsecc")
    REPORT.to_json(tmp_path / "r.json")
    for name, option, value in (("m.sparsecc", "--recipe", recipe), ("r.json", "--recipe", recipe), ("r.json", "--maps", tmp_path)):
        code, _, [error] = call("explain", tmp_path / name, option, value)
        assert code == 2 and f"{name}: says what was done already" in error


def test_maps_of_a_model_without_sparse_attention(call, model, tmp_path):
    code, _, [error] = call("explain", model, "--maps", tmp_path / "maps")
    assert code == 2 and "the recipe makes no attention block-sparse" in error


def test_a_model_without_layers_says_so(call, tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    code, text, errors = call("explain", tmp_path / "m.onnx")
    assert (code, errors) == (0, []) and text.startswith("no layer with weights")
