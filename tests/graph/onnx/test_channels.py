"""Channels of ONNX graphs, of fixed and of free sizes, spelt out and as operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from sparsecc.errors import Refused
from sparsecc.graph.channels import Channels
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Attention, Linear, Mlp
from tests.graph import onnx_models
from tests.graph.heads import FOLLOWED, REFUSED, Heads, X
from tests.tolerance import assert_close

every_opset = pytest.mark.parametrize("opset", [18, 23])
FREE = ({0: Dim("batch"), 1: Dim("tokens")},)


def exported(module: nn.Module, opset: int, free: bool = False) -> OnnxGraph:
    sizes: dict[str, Any] = {"dynamic_shapes": FREE} if free else {}
    program = torch.onnx.export(module.eval(), (X,), dynamo=True, verbose=False, opset_version=opset, **sizes)
    assert program is not None
    return OnnxGraph.from_proto(program.model_proto)


def cut(whole: OnnxGraph, site: Attention | Mlp, stay: Tensor) -> tuple[OnnxGraph, OnnxGraph]:
    """Without the other units, and with zeros in what reads them."""
    channels = whole.channels(site)
    assert isinstance(channels, Channels), channels
    columns = channels.columns(stay)
    weight = torch.zeros_like(channels.reader.weight)
    weight[:, columns] = channels.reader.weight[:, columns]
    oracle, smaller = whole.copy(), whole.copy()
    oracle.set_weight(channels.reader, weight)
    smaller.narrow(site, stay, weight[:, columns], None)
    return smaller, oracle


@every_opset
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("module", FOLLOWED)
def test_without_a_head_as_with_zeros_in_what_reads_it(module: type[Heads], opset: int, free: bool) -> None:
    whole = exported(module(), opset, free)
    [site] = whole.sites(Attention)
    smaller, oracle = cut(whole, site, torch.tensor([0, 2, 3]))
    for x in (X, torch.randn(3, 4, 24)) if free else (X,):
        assert_close(smaller.run((x,)).outputs[0], oracle.run((x,)).outputs[0])
    assert [found.heads for found in smaller.sites(Attention)] == [3]
    assert [layer.shape for layer in smaller.sites(Linear)] == [(18, 24), (18, 24), (18, 24), (24, 18)]
    assert [found.heads for found in whole.sites(Attention)] == [4]
    again = OnnxGraph.from_proto(smaller.proto())
    assert_close(again.run((X,)).outputs[0], smaller.run((X,)).outputs[0])
    onnx.shape_inference.infer_shapes(smaller.proto(), strict_mode=True, data_prop=True)


@every_opset
@pytest.mark.parametrize("module", REFUSED)
def test_refused(module: type[Heads], opset: int) -> None:
    whole = exported(module(), opset)
    for site in whole.sites(Attention):
        found = whole.channels(site)
        assert isinstance(found, Refused)
        assert found.reason


def test_a_model_of_free_sizes_that_computes_its_shapes() -> None:
    """BERT as torch exports it: keys are turned by reshapes to sizes that are read off them."""
    whole = OnnxGraph.from_proto(onnx_models.bert()[0])
    inputs = torch.randint(0, 50, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    for kind, units in ((Attention, 4), (Mlp, 64)):
        for site in whole.sites(kind):
            smaller, oracle = cut(whole, site, torch.arange(1, units))
            assert_close(smaller.run(inputs).outputs[0], oracle.run(inputs).outputs[0])


def test_shapes_that_layers_share_change_for_one_of_them() -> None:
    """One constant [2, 6, 4, 6] serves all layers of two attentions."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Heads(), Heads()

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    whole = exported(Two(), 18)
    first, _ = whole.sites(Attention)
    smaller, oracle = cut(whole, first, torch.tensor([1, 2]))
    assert_close(smaller.run((X,)).outputs[0], oracle.run((X,)).outputs[0])
    assert [site.heads for site in smaller.sites(Attention)] == [2, 4]


def test_neurons_of_a_model_by_hand() -> None:
    whole = OnnxGraph.from_proto(onnx_models.mlp())
    [site] = whole.sites(Mlp)
    smaller, oracle = cut(whole, site, torch.arange(0, 64, 3))
    x = torch.randn(5, 32)
    assert_close(smaller.run((x,)).outputs[0], oracle.run((x,)).outputs[0])
    assert [layer.shape for layer in smaller.sites(Linear)] == [(22, 32), (16, 22), (8, 16)]


def mlp_with(*nodes: onnx.NodeProto, outputs: dict[str, Any] | None = None) -> OnnxGraph:
    """An Mlp of 8 neurons beside other nodes."""
    layers = [
        onnx_models.node("MatMul", "x first", "h"),
        onnx_models.node("Relu", "h", "a"),
        *nodes,
        onnx_models.node("MatMul", "a second", "y"),
    ]
    weights = {"first": onnx_models.random(4, 8), "second": onnx_models.random(8, 3), "two": np.array([2], np.int64)}
    return OnnxGraph.from_proto(onnx_models.model(layers, {"x": ["n", 4]}, {"y": ["n", 3], **(outputs or {})}, weights))


def test_sizes_that_leave_the_model() -> None:
    """The number of rows may; the number of neurons may not."""
    rows = mlp_with(
        onnx.helper.make_node("Shape", ["h"], ["s"], end=1),
        onnx.helper.make_node("ConstantOfShape", ["s"], ["z"]),
        outputs={"z": ["n"]},
    )
    assert all(not isinstance(rows.channels(site), Refused) for site in rows.sites(Mlp))
    neurons = mlp_with(
        onnx.helper.make_node("Shape", ["h"], ["s"]), onnx.helper.make_node("ConstantOfShape", ["s"], ["z"]), outputs={"z": ["n", 8]}
    )
    assert all(isinstance(neurons.channels(site), Refused) for site in neurons.sites(Mlp))
