from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnxruntime
import pytest

from tests.runtime import tiny


@pytest.fixture
def artifact(tmp_path):
    compiled = tiny.compiled()
    compiled.save(tmp_path / "m.sparsecc")
    return tmp_path / "m.sparsecc"


def test_an_onnx_file_runs_in_onnxruntime(call, model, inputs, tmp_path):
    code, text, errors = call("run", model, "--inputs", inputs, "--output", tmp_path / "y.npz", "--json", tmp_path / "y.json")
    assert (code, errors) == (0, [])
    want = np.asarray(onnxruntime.InferenceSession(model).run(None, dict(np.load(inputs)))[0])
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y"], want, rtol=1e-5, atol=1e-5)
    assert text.startswith("y  float32 (3, 64)")
    assert json.loads((tmp_path / "y.json").read_text())["outputs"]["y"]["shape"] == [3, 64]


def test_an_artifact_runs(call, artifact, tmp_path):
    np.savez(tmp_path / "x.npz", x=tiny.example())
    code, _, errors = call("run", artifact, "--inputs", tmp_path / "x.npz", "-o", tmp_path / "y.npz", "--threads", "1")
    assert (code, errors) == (0, [])
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["y0"], tiny.example() @ tiny.WEIGHT.T, rtol=1e-5, atol=1e-5)


def test_inputs_are_made_when_shapes_are_known(call, artifact, model):
    assert call("run", artifact)[0] == 0
    assert call("run", model, "--input-shape", "x:2,64")[0] == 0
    code, _, [error] = call("run", model)
    assert code == 2 and "--input-shape x:1,64" in error


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": tiny.example().astype(np.float64)}, "input 'x' is float64"),
        ({"x": np.full((3, tiny.COLS), np.nan, np.float32)}, "input 'x' holds NaN"),
        ({"z": tiny.example()}, "no input 'z'"),
        ({"x": tiny.example(5)}, "not compiled for x 5x24; this artifact holds: x 3x24"),
        ({"x": np.array([None])}, "cannot be read as .npz"),
    ],
)
def test_wrong_inputs_are_one_line(call, artifact, tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    code, _, errors = call("run", artifact, "--inputs", tmp_path / "x.npz", "-o", tmp_path / "y.npz")
    assert code == 2 and len(errors) == 1 and message in errors[0], errors
    assert not (tmp_path / "y.npz").exists()


def test_a_changed_byte_is_noticed(call, artifact):
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    code, _, [error] = call("run", artifact)
    assert code == 2 and "SHA-256" in error


def test_another_cpu_is_refused(call, artifact):
    larger = dataclasses.replace(tiny.TARGET, features=("avx512imaginary",))
    compiled = tiny.compiled()
    compiled.target = larger
    compiled.save(artifact)
    code, _, [error] = call("run", artifact)
    assert code == 2 and "this CPU lacks avx512imaginary" in error


def test_shapes_come_too_late_for_an_artifact(call, artifact):
    code, _, [error] = call("run", artifact, "--input-shape", "x:3,24")
    assert code == 2 and "--input-shape comes too late" in error


def test_threads_are_for_artifacts(call, model):
    code, _, [error] = call("run", model, "--input-shape", "x:2,64", "--threads", "1")
    assert code == 2 and "--threads is for artifacts" in error
