"""A model with layers that read one value, and samples that several ranks cannot divide evenly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear
from tests.passes.fake import FakeGraph, linear

WIDTH, WIDE = 32, 64
LAYERS = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (WIDTH, WIDE), "down": (WIDE, WIDTH)}
SAMPLES = 5


def onnx_model() -> onnx.ModelProto:
    """[tokens, 32] → [tokens, 32]: gates that q, k and v make of one value, then a feed-forward part."""
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=shape).astype(np.float32) / shape[0] ** 0.5 for name, shape in LAYERS.items()}
    steps = [
        ("MatMul", ["x", "q"], "xq"),
        ("MatMul", ["x", "k"], "xk"),
        ("MatMul", ["x", "v"], "xv"),
        ("Sigmoid", ["xk"], "gate"),
        ("Mul", ["xq", "gate"], "gated"),
        ("Add", ["gated", "xv"], "mixed"),
        ("MatMul", ["mixed", "out"], "given"),
        ("MatMul", ["given", "up"], "before"),
        ("Relu", ["before"], "active"),
        ("MatMul", ["active", "down"], "y"),
    ]
    nodes = [helper.make_node(kind, inputs, [output], name=f"{output}_node") for kind, inputs, output in steps]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], [numpy_helper.from_array(w, name) for name, w in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def torch_graph() -> FxGraph:
    """[tokens, 32] → [tokens, 32] in three layers, for what needs gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(WIDTH, WIDE), nn.ReLU(), nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, WIDTH)]
    return FxGraph.from_module(nn.Sequential(*layers).eval(), (torch.ones(3, WIDTH),))


class Experts(FakeGraph):
    """Two layers with inputs of their own, which samples 1 and 2 do not reach."""

    def _source(self, site: Linear) -> str:
        return site.name

    def walk(self, inputs: Sequence[Any], taps: Sequence[str]) -> Iterator[tuple[str, list[tuple[torch.Tensor, ...]]]]:
        for factor, name in enumerate(taps, 1):
            given = [torch.as_tensor(x) for (x,) in inputs]
            yield name, [(x[:0] if len(x) in (10, 11) else factor * x,) for x in given]


def experts() -> Experts:
    return Experts([linear("a", cols=WIDTH), linear("b", cols=WIDTH, seed=1)])


def samples() -> list[tuple[np.ndarray]]:
    generator = np.random.default_rng(1)
    return [(generator.normal(size=(9 + i, WIDTH)).astype(np.float32),) for i in range(SAMPLES)]


def write(folder: Path) -> tuple[Path, Path]:
    """The model and an .npz of samples for the command line."""
    onnx.save(onnx_model(), folder / "small.onnx")
    np.savez(folder / "samples.npz", x=np.random.default_rng(1).normal(size=(SAMPLES, 9, WIDTH)).astype(np.float32))
    return folder / "small.onnx", folder / "samples.npz"
