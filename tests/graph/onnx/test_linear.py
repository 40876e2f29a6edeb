"""Linear layers however a file spells them: one site, and the same outputs as onnxruntime gives the file as it came."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear, WeightSite
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random
from tests.tolerance import assert_close

X = {"x": (2, 5, 8)}
CASES = {
    "a weight with a leading 1": (node("MatMul", "x w", "y"), X, {"w": random(1, 8, 6)}),
    "a number as C": (node("Gemm", "x w c", "y"), {"x": (5, 8)}, {"w": random(8, 6), "c": np.array([0.5], np.float32)}),
    "a C without axes": (node("Gemm", "x w c", "y"), {"x": (5, 8)}, {"w": random(8, 6), "c": np.float32(0.5)}),
    "a C of other rows": (node("Gemm", "x w c", "y"), {"x": (5, 8)}, {"w": random(8, 6), "c": random(5, 6)}),
    "a C of one column": (node("Gemm", "x w c", "y"), {"x": (5, 8)}, {"w": random(8, 6), "c": random(5, 1)}),
    "a computed C": (node("Gemm", "x w c", "y"), {"x": (5, 8), "c": (6,)}, {"w": random(8, 6)}),
    "transA": (node("Gemm", "x w b", "y", transA=1), {"x": (8, 5)}, {"w": random(8, 6), "b": random(6)}),
    "transA and transB": (node("Gemm", "x w", "y", transA=1, transB=1), {"x": (8, 5)}, {"w": random(6, 8)}),
    "einsum of a matrix": (node("Einsum", "x w", "y", equation="btd,dk->btk"), X, {"w": random(8, 6)}),
    "einsum with an ellipsis": (node("Einsum", "x w", "y", equation="...d,kd->...k"), X, {"w": random(6, 8)}),
    "einsum into heads": (node("Einsum", "x w", "y", equation="btd,dhk->bthk"), X, {"w": random(8, 2, 6)}),
    "einsum into heads first": (node("Einsum", "x w", "y", equation="btd,hdk->bhtk"), X, {"w": random(2, 8, 6)}),
    "einsum out of heads": (node("Einsum", "x w", "y", equation="bhtk,hkd->btd"), {"x": (2, 3, 5, 8)}, {"w": random(3, 8, 6)}),
    "einsum, the weight first": (node("Einsum", "w x", "y", equation="kd,bdt->bkt"), {"x": (2, 8, 5)}, {"w": random(6, 8)}),
    "einsum without a result": (node("Einsum", "x w", "y", equation="ab,bc"), {"x": (5, 8)}, {"w": random(8, 6)}),
}


def proto(case: str, free: bool) -> onnx.ModelProto:
    operator, inputs, weights = CASES[case]
    operator.name = "layer"
    given = {name: ["n", *shape[1:]] if free and len(shape) > 2 else shape for name, shape in inputs.items()}
    model = models.model([operator, node("Identity", "y", "z")], given, {"z": ()}, weights)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_site_and_computes_the_same(case: str) -> None:
    model = proto(case, free=True)
    graph = OnnxGraph.from_proto(model)
    [site] = graph.sites(WeightSite)
    assert isinstance(site, Linear)
    assert site.name == "layer"
    assert [weight.kind for weight in graph.unseen()] == (["Add"] if case == "a C of other rows" else [])
    inputs = {name: random(*shape, seed=1) for name, shape in CASES[case][1].items()}
    [before] = models.run(model, **inputs)
    assert_close(graph.run(inputs).outputs[0], torch.from_numpy(before))
    graph.set_weight(site, torch.zeros(site.shape))
    assert [tuple(output.shape) for output in graph.run(inputs).outputs] == [before.shape]


@pytest.mark.parametrize("equation", ["bei,eio->beo", "btd,dk->bk", "btt,td->bd", "btd,dk->btkd"])
def test_other_einsums_stay_what_they_are(equation: str) -> None:
    x, w = {"bei,eio->beo": ((2, 3, 8), (3, 8, 4)), "btt,td->bd": ((2, 5, 5), (5, 4))}.get(equation, ((2, 5, 8), (8, 6)))
    model = models.model(
        [helper.make_node("Einsum", ["x", "w"], ["y"], name="e", equation=equation)], {"x": x}, {"y": ()}, {"w": random(*w)}
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    graph = OnnxGraph.from_proto(model)
    assert graph.sites(WeightSite) == []
    assert [(weight.name, weight.kind) for weight in graph.unseen()] == [("e", "Einsum")]
