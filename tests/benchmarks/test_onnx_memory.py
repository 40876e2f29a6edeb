from __future__ import annotations

import onnx
import pytest

import sparsecc
from benchmarks import onnx_memory
from benchmarks.onnx_memory import RECIPES, held, model, peak
from benchmarks.process_memory import in_a_process


def test_small_models_can_be_measured(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"VmRSS": 1000, "VmHWM": 5000}
    monkeypatch.setattr(onnx_memory, "memory", seen.__getitem__)
    monkeypatch.setattr(onnx_memory, "reset_peak", lambda: None)
    small = model(64, 2)
    onnx.checker.check_model(small)
    onnx.save(small, tmp_path / "m.onnx")
    for what in RECIPES:
        assert peak(tmp_path / "m.onnx", what)["peak"] == 4000
    sparsecc.compile(model(256, 1), threads=1).save(tmp_path / "m.sparsecc")
    assert held(tmp_path / "m.sparsecc", 10) == {"first": 1000, "last": 1000}


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"process_memory --file nothing: .*required"):
        in_a_process("process_memory", "--file", "nothing")
