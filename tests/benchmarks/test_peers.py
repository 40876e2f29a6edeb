"""Every engine computes the same on a small model, and errors are measured as documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks import export
from benchmarks.peers import Engine, OnnxRuntime, OnnxRuntimeInt8, OpenVino, OpenVinoInt8, Torch, Workload, flat, max_relative_error

# Large and small rows in turns: without VNNI, engines add two neighbouring products of bytes in 16 bits, and two large ones saturate.
WEIGHT = np.array([[40, -30, 50], [0.3, 0.2, -0.1], [-35, 45, 20], [0.1, -0.4, 0.2]], np.float32)


class Product(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": x @ torch.from_numpy(WEIGHT)}


@pytest.fixture
def workload(tmp_path: Path) -> Workload:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "product.onnx")
    return Workload("product", tmp_path / "product.onnx", {"x": np.ones((2, 4), np.float32)}, Product())


@pytest.mark.parametrize("engine", [OnnxRuntime(), OpenVino(), Torch()], ids=lambda e: e.name)
def test_engine_runs_the_workload(engine: Engine, workload: Workload) -> None:
    if isinstance(engine, OpenVino):
        pytest.importorskip("openvino")
    (y,) = engine.load(workload, threads=1)()
    np.testing.assert_allclose(y, np.ones((2, 4)) @ WEIGHT, rtol=1e-5)


@pytest.mark.parametrize("engine", [OnnxRuntimeInt8(), OpenVinoInt8(transformer=True), OpenVinoInt8(transformer=False)])
def test_int8_engine_quantizes_once(engine: Engine, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(engine, OpenVinoInt8):
        pytest.importorskip("nncf")
    monkeypatch.setattr(export, "CACHE", tmp_path / "cache")
    (y,) = engine.load(workload, threads=1)()
    assert 1e-7 < max_relative_error([y], [workload.inputs["x"] @ WEIGHT]) < 2e-2
    kept = files(export.CACHE)
    (again,) = engine.load(workload, threads=1)()
    np.testing.assert_array_equal(again, y)
    assert files(export.CACHE) == kept


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_torch_needs_a_module(workload: Workload) -> None:
    file_only = Workload("product", workload.onnx, workload.inputs)
    with pytest.raises(ValueError, match="came as an ONNX file"):
        Torch().load(file_only, threads=1)


def test_flat_walks_nested_outputs_and_leaves_out_none() -> None:
    arrays = flat({"a": torch.ones(1), "b": (None, [torch.zeros(2), np.ones(3)])})
    assert [a.shape for a in arrays] == [(1,), (2,), (3,)]


def test_max_relative_error_is_relative_to_the_largest_magnitude() -> None:
    reference = [np.array([10.0, -200.0]), np.array([1.0])]
    assert max_relative_error([np.array([12.0, -200.0]), np.array([1.0])], reference) == pytest.approx(0.01)
    assert max_relative_error([np.array([10.0, -200.0]), np.array([2.0])], reference) == pytest.approx(1)
    assert max_relative_error([np.array([10.0, -200.0])], reference) == float("inf")
    assert np.isnan(max_relative_error([np.array([10.0, np.nan]), np.array([1.0])], reference))
