"""Programs as the compiler sees them once layers and attention are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from sparsecc.codegen.importers.fx.importer import import_fx
from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.codegen.recognize.layers import recognize
from sparsecc.codegen.recognize.program import AttentionCall, Layer, Program
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.codegen.whole import as_module


def imported(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> Program:
    return Program.of(import_fx(torch.export.export(as_module(module), inputs, strict=False)))


def recognized(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> Program:
    program = imported(module, *inputs)
    recognize(program)
    return program


def recognized_onnx(proto: onnx.ModelProto) -> Program:
    program = Program.of(import_onnx(OnnxGraph.from_proto(proto).proto()))
    recognize(program)
    return program


def operators(program: Program) -> list[str]:
    return [node.op for node in program.nodes]


def layers(program: Program) -> list[Layer]:
    return [node.what for node in program.nodes if isinstance(node.what, Layer)]


def calls(program: Program) -> list[AttentionCall]:
    return [node.what for node in program.nodes if isinstance(node.what, AttentionCall)]
