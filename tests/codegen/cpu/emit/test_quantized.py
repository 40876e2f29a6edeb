"""Quantized layers in generated code: the host's numbers, on the kernels for groups, from both importers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.calibration.context import Context
from sparsecc.codegen.cpu.target import parse
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Linear
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.passes.quantize import Quantize
from tests.codegen.cpu.kernels.running import HERE
from tests.codegen.whole import Parallel, build, check, emitted, fixed, run
from tests.laws.hosts import HOSTS

STEPS = {
    "int8": (Quantize(),),
    "calibrated": (Quantize(activations="calibrated"),),
    "bfloat16": (Quantize(dtype="bfloat16"),),
    "int8 1x4": (Prune(pattern="1x4", sparsity=0.8), Quantize(), Pack()),
    "bfloat16 1x4": (Prune(pattern="1x4", sparsity=0.8), Pack(), Quantize(dtype="bfloat16")),
    "int8 csr": (Prune(sparsity=0.9), Quantize(), Pack()),
}


STEPS["int8 2:4"] = (Prune(pattern="2:4"), Quantize(), Pack())


class Layers(nn.ModuleList):
    """All of them read the same input."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self]


def quantized(graph: Graph, names: Sequence[str], inputs: Sequence[Tensor]) -> Graph:
    """Its linear layers, each by the steps of its name."""
    for site, name in zip(list(graph.sites(Linear)), names, strict=True):
        for step in STEPS[name]:
            only: Any = replace(step, targets=(site.name,))
            graph = only.apply(graph, Context(calibration=[tuple(inputs)])).graph
    return graph


@pytest.mark.parametrize("host", HOSTS)
def test_a_layer_computes_what_the_host_does(host: str) -> None:
    torch.manual_seed(0)
    names, x = [name for name in STEPS if name != "int8 2:4"], torch.randn(40, 64)
    graph = quantized(HOSTS[host](Layers([nn.Linear(64, 48) for _ in names]).eval(), x), names, [x])
    kernels = {name: choice.kernel.split()[0] for name, choice in zip(names, check(graph, [x]), strict=True)}
    assert kernels == {name: "sparse_group_matmul" if len(STEPS[name]) > 1 else "dense_group_matmul" for name in names}


FEW = {  # steps → kernel
    "int8": "dense_group_matvec",
    "calibrated": "dense_group_matvec",
    "bfloat16": "dense_group_matvec",
    "int8 2:4": "nm_group_matvec",
    "int8 1x4": "sparse_group_matmul",
    "bfloat16 1x4": "sparse_group_matmul",
}


def test_few_tokens() -> None:
    """One, three and eight for each."""
    torch.manual_seed(0)
    names = [name for name in FEW for _ in range(3)]
    inputs = [torch.randn(tokens, 64) for _ in FEW for tokens in (1, 3, 8)]
    graph = quantized(fixed(Parallel([nn.Linear(64, 51) for _ in names]), *inputs), names, inputs)
    choices = check(graph, inputs)
    assert [(name, choice.kernel.split()[0]) for name, choice in zip(names, choices, strict=True)] == [(name, FEW[name]) for name in names]


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (2, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("host", HOSTS)
def test_attention_between_narrow_layers_is_bfloat16(host: str) -> None:
    """Where the CPU multiplies bfloat16, and not where one of q, k and v comes from a layer in float32."""
    torch.manual_seed(0)
    x = torch.randn(2, 10, 16)
    graph = HOSTS[host](Attends().eval(), x)
    all_narrow = Quantize(min_weights=0).apply(graph).graph
    value_whole = Quantize(min_weights=0, ignore=(r"re:.*value.*",)).apply(graph).graph
    znver4, older = parse("cpu:znver4", 2), parse("cpu:skylake-avx512", 2)
    for graph, target, expected in ((all_narrow, znver4, True), (all_narrow, older, False), (value_whole, znver4, False)):
        assert ("pair_tokens" in str(emitted(graph, [x], target).module)) == expected
    library, _ = build(all_narrow, [x], HERE)
    [got], [expected] = run(library, [x]), all_narrow.run([x]).outputs
    assert (got - expected).abs().max() <= expected.abs().max() / 50


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_every_layer_is_timed_against_float32(dtype: str) -> None:
    module, x = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 35)), torch.randn(16, 24)
    graph = Quantize(dtype=dtype, min_weights=0).apply(fixed(module, x)).graph
    _, choices = build(graph, [x], HERE, measure=True)
    assert len(choices) == 2
    assert all(choice.dense_us and choice.measured_us for choice in choices)
    assert all(choice.reason.startswith(f"{dtype}: ") for choice in choices)
