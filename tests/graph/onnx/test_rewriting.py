"""Other tensors and operators in the places of an ONNX model's sites."""

from __future__ import annotations

import numpy as np
import torch

from sparsecc.formats import storing
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.patterns import parse
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random
from tests.tolerance import assert_close


def test_a_shared_weight_is_marked_and_leaves_the_others_alone_when_set() -> None:
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h w", "y")]
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": ["n", 32]}, {"y": ["n", 32]}, {"w": random(32, 32)}))
    first, second = graph.sites(Linear)
    assert first.shared and second.shared
    graph.set_weight(first, torch.zeros(32, 32))
    assert not graph.sites(Linear)[0].weight.any()
    assert torch.equal(graph.sites(Linear)[1].weight, second.weight)


def test_a_shared_weight_of_convolutions_keeps_its_shape_when_set() -> None:
    nodes = [node("Conv", "x w", "h"), node("Conv", "h w", "y")]
    weight = random(4, 4, 1, 1)
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": [1, 4, 5, 5]}, {"y": [1, 4, 5, 5]}, {"w": weight}))
    first, second = graph.sites(WeightSite)
    graph.set_weight(first, first.weight * 2)
    x = random(1, 4, 5, 5, seed=1)
    once = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x)
    assert_close(graph.run([x]).outputs[0], torch.from_numpy(2 * np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], once)))
    assert torch.equal(graph.sites(WeightSite)[1].weight, second.weight)


def test_tied_embeddings_are_shared_through_their_transpose() -> None:
    table = random(40, 64)
    nodes = [node("Cast", "x", "i", to=7), node("Gather", "e i", "h"), node("Transpose", "e", "t", perm=[1, 0]), node("MatMul", "h t", "y")]
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": ["n"]}, {"y": ["n", 40]}, {"e": table}))
    (head,) = graph.sites(Linear)
    assert head.shared
    assert np.array_equal(head.weight.numpy(), table)
    format = storing(parse("4x1"))
    keep = format.pattern.project(head.weight.abs(), 0.5)
    graph.replace(head, SparseLinear(format.pack(head.weight, keep)))
    x = np.array([1, 5, 39], np.float32)
    assert_close(graph.run([x]).outputs[0], torch.from_numpy(table[[1, 5, 39]]) @ (head.weight * keep).T)


def test_replace_uses_the_operators_bias() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    head = graph.sites(Linear)[2]
    format = storing(parse("2:4"))
    op = SparseLinear(format.pack(head.weight, format.pattern.project(head.weight.abs(), 0.5)), None)
    graph.replace(head, op)
    assert graph.sites(Linear)[2].bias is None
