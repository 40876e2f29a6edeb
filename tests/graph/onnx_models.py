"""Small ONNX models for the tests, made by hand or by torch's exporter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.export import Dim

Shape = Sequence[int | str | None]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape | None],
    outputs: Mapping[str, Shape | None],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
    name: str = "test",
) -> onnx.ModelProto:
    """A model with fp32 inputs and outputs, whose shape is None where nothing is said of it."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op_type: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """node("Add", "x b", "y"): inputs separated by blanks, `_` for one left out."""
    return helper.make_node(op_type, [name.replace("_", "") if name == "_" else name for name in inputs.split()], [output], **attributes)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def mlp(opset: int = 18) -> onnx.ModelProto:
    """x[n, 32] -> fc1 [64, 32] -> relu -> fc2 [16, 64], as MatMul and Add, then a Gemm head [8, 16]."""
    nodes = [
        node("MatMul", "x fc1.weight", "h0"),
        node("Add", "h0 fc1.bias", "h1"),
        node("Relu", "h1", "h2"),
        node("MatMul", "h2 fc2.weight", "h3"),
        node("Add", "fc2.bias h3", "h4"),
        node("Gemm", "h4 head.weight head.bias", "y", transB=1),
    ]
    weights = {
        "fc1.weight": random(32, 64),
        "fc1.bias": random(64),
        "fc2.weight": random(64, 16),
        "fc2.bias": random(16),
        "head.weight": random(8, 16),
        "head.bias": random(8),
    }
    return model(nodes, {"x": ["n", 32]}, {"y": ["n", 8]}, weights, opset)


def run(proto: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    """The model in a stock onnxruntime."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return cast(list[np.ndarray], session.run(None, feeds))


class Cnn(nn.Module):
    """Convolutions of every kind that a site can be: with batch norm, depthwise, strided, dilated, 1×1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.wide = nn.Conv2d(16, 24, 3, padding=2, dilation=2)
        self.pointwise = nn.Conv2d(24, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = nn.functional.hardswish(self.depthwise(x))
        x = nn.functional.silu(self.wide(x))
        return self.head(self.pointwise(x).mean((2, 3)))


@cache
def cnn() -> tuple[onnx.ModelProto, Cnn]:
    torch.manual_seed(0)
    module = Cnn().eval()
    assert module.norm.running_mean is not None and module.norm.running_var is not None
    module.norm.running_mean.normal_()
    module.norm.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 16, 16)
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: "batch"},))
    assert program is not None
    return program.model_proto, module


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(32, 96)
        self.out = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def self_attention(opset: int) -> onnx.ModelProto:
    """Causal, as torch's scaled_dot_product_attention, for any number of tokens."""
    x = torch.randn(2, 6, 32)
    program = torch.onnx.export(
        SelfAttention().eval(), (x,), dynamo=True, verbose=False, opset_version=opset, dynamic_shapes=({0: "batch", 1: "tokens"},)
    )
    assert program is not None
    return program.model_proto


@cache
def bert() -> tuple[onnx.ModelProto, nn.Module]:
    """A BertModel of two layers; batch and tokens may change."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    module = BertModel(config).eval()
    for parameter in module.parameters():  # the exporter merges equal initializers: no zeros and ones
        nn.init.normal_(parameter, std=0.2)
    ids, mask = torch.randint(0, 50, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    sizes = {0: Dim("batch"), 1: Dim("tokens")}
    program = torch.onnx.export(module, (ids, mask), dynamo=True, verbose=False, opset_version=18, dynamic_shapes=(sizes, sizes))
    assert program is not None
    return program.model_proto, module
