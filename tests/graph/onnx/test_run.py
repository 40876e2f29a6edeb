"""Sessions are kept, weights are lent to them, and failures say whose they are."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from sparsecc.errors import InputError
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.onnx.run import Runner
from sparsecc.graph.sites import Linear
from tests.graph import onnx_models as models
from tests.graph.onnx_models import node, random


def test_sessions_are_reused_until_the_graph_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: opened.append(1) or real(*a, **k))
    graph = OnnxGraph.from_proto(models.mlp())
    x = random(2, 32)
    for taps in ([], ["fc1", "head"]):
        for _ in range(3):
            graph.run([x], taps)
    assert len(opened) == 2
    (site,) = graph.sites(Linear, ("fc1",))
    graph.set_weight(site, torch.zeros_like(site.weight))
    graph.run([x])
    assert len(opened) == 3


def test_lent_weights_stay_alive() -> None:
    graph = OnnxGraph.from_proto(models.mlp())
    x = random(2, 32)
    before = graph.run([x]).outputs[0].clone()
    gc.collect()
    _ = [np.random.default_rng(k).random(1 << 16) for k in range(50)]
    assert torch.equal(graph.run([x]).outputs[0], before)


def test_matrices_of_products_are_fed_and_not_copied_into_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that callers may override, or that something else reads, too, is not."""
    sessions = []
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: sessions.append(real(*a, **k)) or sessions[-1])
    nodes = [node("MatMul", "x w", "a"), node("Gemm", "a v b", "c"), node("MatMul", "c d", "e"), node("MatMul", "e s", "f")]
    nodes += [node("Add", "f s", "y")]
    weights = {name: random(32, 32, seed=k) for k, name in enumerate("wvds")}
    proto = models.model(nodes, {"x": [32, 32]}, {"y": [32, 32]}, weights | {"b": random(32)})
    proto.graph.input.append(onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, [32, 32]))
    x = random(32, 32, seed=9)
    ran = Runner(ir.serde.deserialize_model(proto), "m").run({"x": x, "d": x}, ["y"])["y"]
    assert sorted(value.name for value in sessions[-1].get_inputs()) == ["v", "w", "x"]
    expected = ((x @ weights["w"] @ weights["v"] + random(32)) @ x) @ weights["s"] + weights["s"]
    assert np.allclose(ran, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_taps_of_inputs_and_outputs() -> None:
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")]
    weights = {"w": random(32, 32), "v": random(32, 32, seed=1)}
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": ["n", 32]}, {"h": ["n", 32], "y": ["n", 32]}, weights))
    x = random(2, 32)
    run = graph.run([x], [site.name for site in graph.sites()])
    first, second = run.taps.values()
    assert torch.equal(first[0], torch.from_numpy(x))
    assert torch.equal(second[0], run.outputs[0])


def test_inputs_that_onnxruntime_fails_on() -> None:
    nodes = [node("Cast", "x", "i", to=7), node("Gather", "w i", "y")]
    graph = OnnxGraph.from_proto(models.model(nodes, {"x": ["n"]}, {"y": ["n", 8]}, {"w": random(4, 8)}))
    with pytest.raises(InputError, match=r"onnxruntime fails on these inputs.*Gather"):
        graph.run([np.array([9], np.float32)])


def test_a_large_weight_that_nothing_reads() -> None:
    proto, x = models.mlp(), random(2, 32)
    before = OnnxGraph.from_proto(proto).run([x]).outputs[0]
    proto.graph.initializer.append(numpy_helper.from_array(random(64, 64), "spare"))
    assert torch.equal(torch.from_numpy(OnnxGraph.from_proto(proto).as_it_came([[x]])[0][0]), before)
