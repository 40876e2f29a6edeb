"""Compiles whole graphs and compares them with their host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sparsecc.codegen import tvm_api
from sparsecc.codegen.choose import Choice
from sparsecc.codegen.compiler import build
from sparsecc.codegen.library import Library
from sparsecc.codegen.target import Target, detect
from sparsecc.codegen.threads import use_threads
from sparsecc.graph.base import Graph
from sparsecc.graph.fx import FxGraph
from sparsecc.graph.onnx import OnnxGraph
from tests.tolerance import assert_close

HERE = detect(2)


class Parallel(nn.Module):
    """Independent modules, each with its own input, in one graph: one build for many cases."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(module(x) for module, x in zip(self.each, inputs, strict=True))


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def fx(module: nn.Module | Any, *inputs: Tensor) -> FxGraph:
    module = module if isinstance(module, nn.Module) else Lambda(module)
    return FxGraph.from_module(module.eval(), inputs)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def run(library: Library, inputs: Sequence[Any]) -> list[Tensor]:
    use_threads(library.target.threads)
    machine = tvm_api.VirtualMachine(library.executable, tvm_api.cpu())
    arrays = [*(np.ascontiguousarray(x) for x in inputs), *library.weights.values()]
    return [torch.from_numpy(out.numpy().copy()) for out in machine["main"](*(tvm_api.tensor(array) for array in arrays))]


def check(graph: Graph, inputs: Sequence[Tensor], target: Target = HERE, measure: bool = False) -> list[Choice]:
    """Compiled, it computes what its host computes, and says what that looks like."""
    library, choices = build(graph, inputs, target, measure=measure)
    outputs, oracle = run(library, inputs), graph.run(inputs).outputs
    assert len(outputs) == len(oracle) == len(library.outputs)
    for out, expected, spec in zip(outputs, oracle, library.outputs, strict=True):
        assert_close(out, expected.detach())
        assert (spec.shape, spec.dtype) == (tuple(expected.shape), str(expected.dtype).removeprefix("torch."))
    return choices


def check_fx(module: nn.Module | Any, *inputs: Tensor) -> list[Choice]:
    return check(fx(module, *inputs), inputs)


def check_onnx(proto: onnx.ModelProto, *inputs: Any) -> list[Choice]:
    return check(OnnxGraph.from_proto(proto), [torch.as_tensor(x) for x in inputs])
