from __future__ import annotations

import onnx
import pytest

import sparsecc
from benchmarks.onnx_memory import RECIPES, held, model, peak
from benchmarks.process_memory import in_a_process


def test_small_models_can_be_measured(tmp_path) -> None:
    small = model(64, 2)
    onnx.checker.check_model(small)
    onnx.save(small, tmp_path / "m.onnx")
    for what in RECIPES:
        assert peak(tmp_path / "m.onnx", what)["peak"] > 0
    sparsecc.compile(model(256, 1), threads=1).save(tmp_path / "m.sparsecc")
    found = held(tmp_path / "m.sparsecc", 10)
    assert found["last"] >= found["first"] > 0


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="process_memory --file nothing: .*required"):
        in_a_process("process_memory", "--file", "nothing")
