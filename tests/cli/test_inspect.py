from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

import sparsecc
from tests.cli.conftest import RECIPE, two_layers


def with_zeros(path, batch: int | str = 4):
    from onnx import numpy_helper

    proto = two_layers(batch)
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "fc1.weight":  # stored in × out: 2 of every 4 inputs
            array.reshape(16, 4, 96)[:, 2:] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, path)


def test_dense_models_have_no_patterns(call, model, tmp_path):
    code, text, errors = call("inspect", model, "--json", tmp_path / "i.json")
    assert code == 0 and "no pattern that saves bytes" in text
    assert len(errors) == 1 and "prune it with a recipe" in errors[0]
    assert all(site["patterns"] == [] for site in json.loads((tmp_path / "i.json").read_text())["sites"])


def test_patterns_are_recognized(call, tmp_path):
    with_zeros(tmp_path / "z.onnx")
    code, text, errors = call("inspect", tmp_path / "z.onnx", "--no-measure", "--json", tmp_path / "i.json")
    assert (code, errors) == (0, [])
    first, second = json.loads((tmp_path / "i.json").read_text())["sites"]
    assert first["sparsity"] == 0.5 and "2:4" in [entry["pattern"] for entry in first["patterns"]]
    assert second["patterns"] == []
    assert "2:4" in text


def test_a_converted_model_is_inspected_too(call, model, tmp_path):
    proto, _ = sparsecc.convert(str(model), RECIPE)
    onnx.save(proto, tmp_path / "c.onnx")
    code, text, _ = call("inspect", tmp_path / "c.onnx", "--no-measure")
    assert code == 0 and "4x1" in text


def test_without_shapes_the_times_may_be_left_out(call, tmp_path):
    with_zeros(tmp_path / "z.onnx", batch="batch")
    code, _, [error] = call("inspect", tmp_path / "z.onnx")
    assert code == 2 and "--input-shape x:1,64" in error and "--no-measure" in error


def test_with_inputs_activations_and_ranks_are_told(call, model, inputs, tmp_path):
    code, text, _ = call("inspect", model, "--calib", inputs, "--json", tmp_path / "i.json")
    assert code == 0
    first, second = json.loads((tmp_path / "i.json").read_text())["sites"]
    assert first["activations"]["nonzero"] == 1.0  # normal deviates
    relu = np.maximum(np.load(inputs)["x"] @ weight("fc1.weight") + weight("fc1.bias"), 0)
    assert second["activations"]["nonzero"] == pytest.approx(np.mean(relu > 0))
    assert second["activations"]["above_small"] == pytest.approx(np.mean(relu > 0.01 * relu.max()))
    power = np.cumsum(np.linalg.svd(weight("fc1.weight"), compute_uv=False) ** 2)
    assert first["ranks"] == {share: (np.searchsorted(power, float(share) * power[-1]) + 1) / 64 for share in ("0.9", "0.99")}
    assert "inputs 100% nonzero" in text
    assert f"rank {first['ranks']['0.9']:.0%} holds 90%" in text


def test_without_inputs_the_keys_are_what_they_were(call, model, tmp_path):
    call("inspect", model, "--json", tmp_path / "i.json")
    [first, _] = json.loads((tmp_path / "i.json").read_text())["sites"]
    assert sorted(first) == ["bytes_dense", "kind", "name", "patterns", "shape", "sparsity"]


def test_inputs_that_do_not_fit_are_refused(call, model, tmp_path):
    np.savez(tmp_path / "wrong.npz", y=np.zeros((3, 64), np.float32))
    code, _, [error] = call("inspect", model, "--calib", tmp_path / "wrong.npz")
    assert code == 2 and "the model has no input 'y'" in error


def weight(name):
    from onnx import numpy_helper

    return next(numpy_helper.to_array(tensor) for tensor in two_layers().graph.initializer if tensor.name == name)
