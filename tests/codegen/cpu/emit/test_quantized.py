"""Quantized layers in generated code: the host's numbers, on the kernels for groups, from both importers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.codegen.cpu.target import parse
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.passes.base import Context
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.passes.quantize import Quantize
from tests.codegen.cpu.kernels.running import HERE
from tests.codegen.whole import build, check, run
from tests.laws.hosts import HOSTS, model

STEPS = {
    "int8": (Quantize(),),
    "calibrated": (Quantize(activations="calibrated"),),
    "bfloat16": (Quantize(dtype="bfloat16"),),
    "int8 1x4": (Prune(pattern="1x4", sparsity=0.8), Quantize(), Pack()),
    "bfloat16 1x4": (Prune(pattern="1x4", sparsity=0.8), Pack(), Quantize(dtype="bfloat16")),
    "int8 csr": (Prune(sparsity=0.9), Quantize(), Pack()),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("steps", STEPS)
def test_a_layer_computes_what_the_host_does(host: str, steps: str) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(64, 48).eval(), torch.randn(40, 64)
    graph: Graph = HOSTS[host](module, x)
    for step in STEPS[steps]:
        graph = step.apply(graph, Context(calibration=[(x,)])).graph
    [choice] = check(graph, [x])
    assert choice.kernel.split()[0] == ("sparse_group_matmul" if len(STEPS[steps]) > 1 else "dense_group_matmul")


FEW = {  # steps → kernel
    "int8": "dense_group_matvec",
    "calibrated": "dense_group_matvec",
    "bfloat16": "dense_group_matvec",
    "int8 2:4": "nm_group_matvec",
    "int8 1x4": "sparse_group_matmul",
    "bfloat16 1x4": "sparse_group_matmul",
}
STEPS["int8 2:4"] = (Prune(pattern="2:4"), Quantize(), Pack())


@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize("steps", FEW)
def test_few_tokens(steps: str, tokens: int) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(64, 51).eval(), torch.randn(tokens, 64)
    graph: Graph = FxGraph.from_module(module, (x,))
    for step in STEPS[steps]:
        graph = step.apply(graph, Context(calibration=[(x,)])).graph
    [choice] = check(graph, [x])
    assert choice.kernel.split()[0] == FEW[steps]


@pytest.mark.parametrize("host", HOSTS)
def test_attention_between_narrow_layers_is_bfloat16(host: str) -> None:
    """Where the CPU multiplies bfloat16, and not where one of q, k and v comes from a layer in float32."""
    module, x = model("transformer")
    all_narrow = Quantize(min_weights=0).apply(HOSTS[host](module, x)).graph
    value_whole = Quantize(min_weights=0, ignore=[r"re:.*value.*"]).apply(HOSTS[host](module, x)).graph
    znver4, older = parse("cpu:znver4", 2), parse("cpu:skylake-avx512", 2)
    for graph, target, expected in ((all_narrow, znver4, True), (all_narrow, older, False), (value_whole, znver4, False)):
        library, _ = build(graph, [x], target)
        assert ("pair_tokens" in library.executable.as_text()) == expected
    library, _ = build(all_narrow, [x], HERE)
    [got], [expected] = run(library, [x]), all_narrow.run([x]).outputs
    assert (got - expected).abs().max() <= expected.abs().max() / 50


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_every_layer_is_timed_against_float32(dtype: str) -> None:
    module, x = model("transformer")
    graph = Quantize(dtype=dtype).apply(FxGraph.from_module(module, (x,))).graph
    _, choices = build(graph, [x], HERE, measure=True)
    assert len(choices) == 7
    assert all(choice.dense_us and choice.measured_us for choice in choices)
    assert all(choice.reason.startswith(f"{dtype}: ") for choice in choices)
