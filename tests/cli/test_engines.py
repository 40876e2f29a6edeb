from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
import torch

from sparsecc.cli import engines
from sparsecc.graph.base import TensorSpec
from tests.runtime import tiny

SPECS = (TensorSpec("x", ("tokens", tiny.COLS), "float32"),)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_run_the_onnx_file(tmp_path, name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    onnx.save(tiny.onnx_model(), tmp_path / "m.onnx")
    assert name in engines.usable(tmp_path / "m.onnx")
    call = engines.prepare(name, tmp_path / "m.onnx", SPECS, [tiny.example()], 1)
    np.testing.assert_allclose(call()[0], tiny.example() @ tiny.WEIGHT.T, rtol=1e-4, atol=1e-4)


def test_torch_runs_a_pt2_file(tmp_path):
    program = torch.export.export(torch.nn.Linear(tiny.COLS, 2), (torch.zeros(3, tiny.COLS),))
    torch.export.save(program, tmp_path / "m.pt2")
    assert engines.usable(tmp_path / "m.pt2") == ["torch"]
    threads = torch.get_num_threads()
    call = engines.prepare("torch", tmp_path / "m.pt2", SPECS, [tiny.example()], 1)
    assert call().shape == (3, 2)
    torch.set_num_threads(threads)
