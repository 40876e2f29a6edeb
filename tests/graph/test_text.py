from __future__ import annotations

import torch
from torch import nn

from sparsecc.calibration.context import Context
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.text import changes
from sparsecc.passes import pipeline
from sparsecc.recipe import Recipe
from tests.graph import onnx_models as models


def traced() -> FxGraph:
    torch.manual_seed(0)
    return FxGraph.from_module(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16)).eval(), (torch.rand(4, 32),))


def test_a_line_for_each_site() -> None:
    assert str(traced()) == (
        "fx: input float32[input_0, 32] -> output_0 float32[input_0, 16]\n"
        "0    Linear  64x32     float32  0.0%  <- inputs\n"
        "2    Linear  16x64     float32  0.0%  <- 0\n"
        "mlp  Mlp     32x64x16  gelu           = 0, 2\n"
    )


def test_what_passes_change_and_nothing_else() -> None:
    found = []
    recipe = Recipe.load("prune{targets=['2'],pattern=4x1,sparsity=0.5} pack")
    pipeline.run(traced(), recipe, Context(), [lambda step: found.append(changes(str(step.before), str(step.result.graph), step.name))])
    zeros, stored = [text.splitlines() for text in found]
    assert zeros[3:] == ["-2  Linear  16x64  float32  0.0%  <- 0", "+2  Linear  16x64  float32  50.0%  <- 0"]
    assert stored[3:] == ["-2  Linear  16x64  float32  50.0%  <- 0", "+2  Linear  16x64  block:4x1  50.0%  <- 0"]
    assert zeros[:2] == ["--- before prune", "+++ after prune"]


def test_attention_says_its_heads_and_what_it_reads() -> None:
    lines = str(OnnxGraph.from_proto(models.self_attention(18))).splitlines()
    assert lines[0].startswith("onnx: ")
    [attention] = [line for line in lines if "Attention  " in line]
    assert "<- " in attention and "inputs" not in attention
