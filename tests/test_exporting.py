"""Programs are what they would be without what the tests remember of torch.export, and torch is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.onnx
from torch import nn
from torch.export import exported_program
from torch.onnx._internal.exporter._registration import ONNXRegistry

from tests.exporting import Overrides, Registries


def test_the_same_program_and_every_kernel_back_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    remembering: Any = exported_program._override_composite_implicit_decomp
    assert isinstance(remembering, Overrides)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Flatten(0)).eval()
    program = torch.export.export(module, (torch.randn(2, 3),), strict=False)
    graphs = [str(program.run_decompositions({}).graph) for _ in range(3)]
    assert remembering.known
    for _, kernels in remembering.known:
        assert all(op.py_kernels == each.usual for op, each in kernels.items())
    monkeypatch.setattr(exported_program, "_override_composite_implicit_decomp", remembering.original)
    assert {*graphs} == {str(program.run_decompositions({}).graph)}
    assert "linear.default" in graphs[0] and "relu.default" in graphs[0]


def test_what_one_export_registers_is_not_there_for_the_next() -> None:
    registries = Registries(ONNXRegistry.from_torchlib)
    one, other = registries(opset_version=18), registries(opset_version=18)
    one.functions.clear()
    assert other.functions
    assert other.opset_version == 18
