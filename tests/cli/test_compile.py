from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from sparsecc import api
from tests.runtime import tiny


@pytest.fixture
def small(tmp_path, monkeypatch):
    tiny.fake_codegen(monkeypatch)
    onnx.save(tiny.onnx_model(), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_an_artifact_and_its_reports(call, small, tmp_path):
    out = tmp_path / "out.sparsecc"
    code, text, errors = call(
        "compile", small, out, "--input-shape", "x:3,24", "--threads", "2", "--json", tmp_path / "r.json", "--html", tmp_path / "r.html"
    )
    assert (code, errors) == (0, [])
    assert "in.onnx on cpu" in text
    assert json.loads((tmp_path / "r.json").read_text())["check"]["max_rel"] < 1e-5
    assert "<table>" in (tmp_path / "r.html").read_text()
    np.savez(tmp_path / "x.npz", x=tiny.example())
    assert call("run", out, "--inputs", tmp_path / "x.npz")[0] == 0


def test_unknown_shapes_are_asked_for(call, small, tmp_path):
    code, _, [error] = call("compile", small, tmp_path / "out.sparsecc")
    assert code == 2 and "--input-shape x:1,24" in error


def test_a_wrong_result_exits_1_and_writes_nothing(call, small, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "TOLERANCE", -1.0)
    code, _, [error] = call("compile", small, tmp_path / "out.sparsecc", "--input-shape", "x:3,24")
    assert code == 1 and "differ" in error
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]
