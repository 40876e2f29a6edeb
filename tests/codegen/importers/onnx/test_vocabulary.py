"""Operators of the vocabulary on their way from a converted file: each is one placeholder that holds what its site does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from sparsecc.attention.base import Grid
from sparsecc.codegen.importers.base import Placeholder
from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention, Linear
from sparsecc.structures.base import Structured
from tests.codegen.whole import block_map, reordered, structured
from tests.graph.onnx_models import mlp, model, node


def placeholders(proto: onnx.ModelProto) -> list[Placeholder]:
    return list(import_onnx(proto).placeholders.values())


def structured_mlp(key: str) -> OnnxGraph:
    return structured(OnnxGraph.from_proto(mlp(), {"x": [5, 32]}), key)


@pytest.mark.parametrize("key", ["low_rank:3", "monarch:2x4:2"])
def test_structured_weights(key: str) -> None:
    graph = structured_mlp(key)
    found = placeholders(graph.proto())
    assert [(p.kind, p.name) for p in found] == [("linear", name) for name in ("fc1", "fc2", "head")]
    for placeholder, site in zip(found, graph.sites(Linear), strict=True):
        assert isinstance(placeholder.stored, Structured) and site.form is not None and site.bias is not None
        assert placeholder.stored.structure.key == key
        assert torch.equal(placeholder.stored.dense(), site.form.dense())
        assert placeholder.bias is not None and torch.equal(torch.from_numpy(placeholder.bias), site.bias)


@pytest.mark.parametrize("grid", [Grid(2, 3, 4), Grid(2, 3, 4, 5), Grid(2, 3, 4, 5, text_first=False)], ids=str)
@pytest.mark.parametrize("curves", [False, True])
def test_block_attention(grid: Grid, curves: bool) -> None:
    nodes = [
        node("Transpose", "k", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "q t", "s"),
        node("Mul", "s scale", "r"),
        node("Softmax", "r", "p", axis=-1),
        node("MatMul", "p v", "y"),
    ]
    shape = [2, 6, grid.tokens, 8]
    dense = OnnxGraph.from_proto(model(nodes, dict.fromkeys("qkv", shape), {"y": shape}, {"scale": np.array(0.25, np.float32)}))
    blocks = block_map(grid, 6, 4, 0.4, curves)
    graph = reordered(dense, blocks)
    [placeholder] = placeholders(graph.proto())
    [site] = graph.sites(Attention)
    assert (placeholder.kind, placeholder.name, placeholder.attributes["scale"]) == ("block_attention", site.name, 0.25)
    found = placeholder.attributes["map"]
    assert (found.grid, found.block) == (grid, 4)
    assert blocks.orders is not None and torch.equal(found.orders, blocks.orders)
    assert torch.equal(found.keep, blocks.keep)


def test_factors_that_are_no_constants_are_refused() -> None:
    proto = structured_mlp("low_rank:3").proto()
    [factor] = [tensor for tensor in proto.graph.initializer if tensor.name == "fc1.structured.left"]
    proto.graph.initializer.remove(factor)
    proto.graph.input.append(onnx.helper.make_tensor_value_info(factor.name, onnx.TensorProto.FLOAT, list(factor.dims)))
    with pytest.raises(ModelError, match="constants of the model"):
        import_onnx(proto)
