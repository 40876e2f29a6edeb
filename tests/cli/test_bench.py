from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from sparsecc import api
from tests.runtime import tiny

QUICK = ("--seconds", "0.1", "--threads", "1")


@pytest.fixture
def small(tmp_path, monkeypatch):
    tiny.fake_codegen(monkeypatch)
    onnx.save(tiny.onnx_model(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_engines_are_timed_in_turns(call, small, tmp_path):
    code, text, errors = call("bench", small, "--input-shape", "x:3,24", "--against", "onnxruntime", "--json", tmp_path / "b.json", *QUICK)
    assert (code, errors) == (0, [])
    assert [line.split()[0] for line in text.splitlines()] == ["sparsecc", "onnxruntime"]
    data = json.loads((tmp_path / "b.json").read_text())
    assert set(data["timings"]) == {"sparsecc", "onnxruntime"} and data["threads"] == 1
    assert {"median", "p10", "p90"} == set(data["speedup"]["onnxruntime"])
    assert data["shapes"] == {"x": [3, 24]}


def test_an_artifact_with_the_dense_model_beside_it(call, small, tmp_path):
    tiny.compiled().save(tmp_path / "m.sparsecc")
    code, text, _ = call("bench", tmp_path / "m.sparsecc", "--dense", small, "--against", "onnxruntime", *QUICK)
    assert code == 0 and "onnxruntime" in text
    code, text, _ = call("bench", tmp_path / "m.sparsecc", *QUICK)
    assert code == 0 and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--against", "onnxrutime"), "no engine 'onnxrutime'; did you mean 'onnxruntime'?"),
        (("--against", "torch"), "torch needs a .pt2 file"),
    ],
)
def test_engines_that_cannot(call, small, options, message):
    code, _, [error] = call("bench", small, "--input-shape", "x:3,24", *options, *QUICK)
    assert code == 2 and message in error


def test_options_that_come_too_late(call, tmp_path):
    tiny.compiled().save(tmp_path / "m.sparsecc")
    code, _, [error] = call("bench", tmp_path / "m.sparsecc", "--input-shape", "x:3,24", *QUICK)
    assert code == 2 and "is compiled already" in error
    code, _, [error] = call("bench", tmp_path / "m.sparsecc", "--against", "onnxruntime", *QUICK)
    assert code == 2 and "--dense" in error


def test_nan_is_refused(call, small, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.full((3, tiny.COLS), np.nan, np.float32))
    code, _, [error] = call("bench", small, "--input-shape", "x:3,24", "--inputs", tmp_path / "x.npz", *QUICK)
    assert code == 2 and "input 'x' holds NaN" in error


def test_a_wrong_result_is_not_timed(call, small, monkeypatch):
    monkeypatch.setattr(api, "TOLERANCE", -1.0)
    code, text, [error] = call("bench", small, "--input-shape", "x:3,24", *QUICK)
    assert code == 1 and "differ" in error and not text


def test_a_dense_model_that_does_not_fit(call, small, tmp_path):
    artifact = tmp_path / "m.sparsecc"
    tiny.compiled().save(artifact)
    code, _, [error] = call("bench", artifact, "--dense", tmp_path / "no.onnx", *QUICK)
    assert code == 2 and "no.onnx: no such file" in error
    code, _, [error] = call("bench", artifact, "--dense", artifact, *QUICK)
    assert code == 2 and "m.sparsecc: no engine that is installed reads it" in error
    small.write_bytes(b"nothing")
    code, _, [error] = call("bench", artifact, "--dense", small, "--against", "onnxruntime", *QUICK)
    assert code == 2 and "onnxruntime cannot run" in error and "in.onnx" in error
    code, text, errors = call("bench", artifact, "--dense", small, *QUICK)
    assert code == 0 and len(text.splitlines()) == 1 and errors[0].startswith("left out: onnxruntime cannot run")


def test_a_profile_on_request(call, tmp_path):
    tiny.compiled().save(tmp_path / "m.sparsecc")
    code, text, errors = call("bench", tmp_path / "m.sparsecc", "--profile", "--json", tmp_path / "b.json", *QUICK)
    assert (code, errors) == (0, [])
    profile = json.loads((tmp_path / "b.json").read_text())["profile"]
    assert [row["symbol"] for row in profile["rows"]] and profile["whole_us"]["median"] > 0
    lines = text.splitlines()
    assert lines[2].split()[:2] == ["µs", "share"] and len(lines) == 3 + len(profile["rows"]) + 2
