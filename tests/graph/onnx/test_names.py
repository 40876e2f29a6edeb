"""Where a layer's name comes from, exporter by exporter."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.onnx.names import SITE_KEY
from sparsecc.graph.sites import Linear, Site
from tests.graph import onnx_models as models
from tests.graph.onnx_models import random


def linear(weight: str, name: str = "", scopes: str | None = None) -> onnx.ModelProto:
    op = helper.make_node("MatMul", ["x", weight], ["y"], name=name)
    if scopes is not None:
        op.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    return models.model([op], {"x": ["n", 32]}, {"y": ["n", 16]}, {weight: random(32, 16)})


@pytest.mark.parametrize(
    ("proto", "name"),
    [
        (linear("a.b.weight", "MatMul_1"), "a.b"),
        (linear("linear_3.w_0", "p2o.MatMul.3"), "linear_3"),
        (linear("val_9", "node_MatMul_4", "['', 'a', 'a.b', 'linear']"), "a.b"),
        (linear("a.b.in_proj_weight", "node_MatMul_4", "['', 'a', 'a.b', 'linear']"), "a.b.in_proj_weight"),
        (linear("conv.weight", "node_MatMul_4", "['', 'norm', 'batch_norm']"), "conv"),
        (linear("val_9", "node_MatMul_4", "['', 'linear']"), "node_MatMul_4"),
        (linear("val_9", "node_MatMul_4", "__import__('os')"), "node_MatMul_4"),
        (linear("onnx::MatMul_7", "/encoder/layer.0/query/MatMul_2"), "encoder.layer.0.query"),
        (linear("W", "dense"), "dense"),
        (linear("W"), "y"),
    ],
)
def test_sources(proto: onnx.ModelProto, name: str) -> None:
    assert [site.name for site in OnnxGraph.from_proto(proto).sites(Linear)] == [name]


def test_names_are_made_unique_in_execution_order() -> None:
    nodes = [helper.make_node("MatMul", [a, w], [b], name="same") for a, w, b in (("x", "u", "g"), ("g", "v", "h"), ("h", "w", "y"))]
    proto = models.model(nodes, {"x": ["n", 32]}, {"y": ["n", 32]}, {w: random(32, 32, seed=k) for k, w in enumerate("uvw")})
    assert [site.name for site in OnnxGraph.from_proto(proto).sites()] == ["same", "same_1", "same_2"]


def test_names_survive_fixing_and_a_file() -> None:
    graph = OnnxGraph.from_proto(linear("val_9", "node_MatMul_4", "['', 'a.b', 'linear']"))
    for again in (graph.fixed({"x": (2, 32)}), OnnxGraph.from_proto(graph.proto())):
        assert [site.name for site in again.sites(Site)] == ["a.b"]
    assert {entry.key: entry.value for entry in graph.proto().graph.node[0].metadata_props} == {SITE_KEY: "a.b"}
