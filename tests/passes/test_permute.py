"""Neurons change their places, and the model computes what it did."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.passes import pipeline
from sparsecc.passes._orders import held, held_in_groups
from sparsecc.passes.permute import Permute
from sparsecc.recipe import Recipe
from tests.codegen.whole import check
from tests.laws.hosts import HOSTS, graph, model
from tests.laws.test_structures import LOADERS
from tests.tolerance import assert_close


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("calibration", [None, "given"])
def test_outputs_stay_and_blocks_agree_more(host: str, calibration: str | None) -> None:
    module, x = model("transformer")
    before = graph(host, "transformer")
    result = Permute().apply(before, Context(calibration=None if calibration is None else [(x,)]))
    assert [match.refused for match in result.matches] == [None]
    assert_close(result.graph.run((x,)).outputs[0], module(x).detach())
    first, same = (g.sites(WeightSite, ("fc1",))[0].weight for g in (result.graph, before))
    assert not torch.equal(first, same)
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, same.tolist()))
    if calibration is None:
        assert held(first.abs(), 4) > held(same.abs(), 4)


@pytest.mark.parametrize("host", HOSTS)
def test_groups_of_inputs(host: str) -> None:
    """The first layer's neurons are spread over the second one's groups of four."""
    module, x = model("transformer")
    before = graph(host, "transformer")
    result = Permute(pattern="2:4").apply(before)
    assert [match.refused for match in result.matches] == [None]
    assert_close(result.graph.run((x,)).outputs[0], module(x).detach())
    second, same = (g.sites(WeightSite, ("fc2",))[0].weight.abs() for g in (result.graph, before))
    assert held_in_groups(second, 2, 4) > held_in_groups(same, 2, 4)


@pytest.mark.parametrize("host", HOSTS)
def test_three_layers_in_a_row(host: str) -> None:
    """The layer in the middle is the second of one Mlp and the first of another."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
    x = torch.randn(5, 8)
    before = HOSTS[host](module, x)
    result = Permute().apply(before, Context(original=before))
    assert [match.refused for match in result.matches] == [None, None]
    assert len({match.site.name for match in result.matches}) == 2
    assert result.original is not None
    for changed in (result.graph, result.original):
        assert_close(changed.run((x,)).outputs[0], module(x).detach())
    for one, other in zip(result.graph.sites(WeightSite), result.original.sites(WeightSite), strict=True):
        assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("calibration", [None, "given"])
def test_inputs_are_gathered_where_they_cannot_be_reordered(host: str, calibration: str | None) -> None:
    """Then a mask of the pattern keeps more; layers that read one value read one gather."""
    module, x = model("transformer")
    before = graph(host, "transformer")
    context = Context(calibration=None if calibration is None else [(x,)], original=before)
    result = Permute(pattern="2:4", inputs=True).apply(before, context)
    names = {site.name for site in before.sites(Linear)}
    assert {match.site.name for match in result.matches} == {*names - {"fc2"}, "mlp"}
    assert all(match.refused is None for match in result.matches)
    assert result.original is not None
    for changed in (result.graph, result.original, result.graph.copy()):
        assert_close(changed.run((x,)).outputs[0], module(x).detach())
    assert gathers(result.graph) < len(names) - 1
    if calibration is None:
        for name in ("out", "fc1", "head"):
            (layer,), (same,) = (of.sites(Linear, (name,)) for of in (result.graph, before))
            assert held_in_groups(layer.weight.abs(), 2, 4) > held_in_groups(same.weight.abs(), 2, 4)


GATHERED = {"passes": [{"permute": {"pattern": "2:4", "inputs": True}}, {"prune": {"pattern": "2:4", "min_weights": 0}}, "recover", "pack"]}


@pytest.mark.parametrize("host", HOSTS)
def test_after_a_gather_everything_else_works(host: str, tmp_path: Path) -> None:
    _, x = model("transformer")
    samples = [(torch.randn(x.shape, generator=torch.Generator().manual_seed(i)),) for i in range(20)]
    packed, _ = pipeline.run(graph(host, "transformer"), Recipe.load(GATHERED), Context(calibration=samples))
    assert {site.packed.format.key for site in packed.sites(Linear) if site.packed} == {"nm:2:4"}
    load, file = LOADERS[host]
    packed.save(tmp_path / file)
    assert_close(load(tmp_path / file).run((x,)).outputs[0], packed.run((x,)).outputs[0])


@pytest.mark.parametrize("host", HOSTS)
def test_generated_code_gathers(host: str) -> None:
    _, x = model("transformer")
    samples = [(torch.randn(x.shape, generator=torch.Generator().manual_seed(i)),) for i in range(4)]
    packed, _ = pipeline.run(graph(host, "transformer"), Recipe.load(GATHERED), Context(calibration=samples))
    assert gathers(packed)
    assert {choice.decision for choice in check(packed, [x])} == {"sparse"}


def gathers(of: Graph) -> int:
    if isinstance(of, FxGraph):
        return len(of.module.graph.find_nodes(op="call_function", target=torch.ops.aten.index_select.default))
    assert isinstance(of, OnnxGraph)
    return sum(node.op_type == "Gather" for node in of.model.graph)


@pytest.mark.parametrize("host", HOSTS)
def test_a_bias_that_layers_share_is_permuted_for_one(host: str) -> None:
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)) for _ in range(2))
    second[0].bias = first[0].bias
    module, x = nn.Sequential(first, second).eval(), torch.randn(5, 8)
    result = Permute().apply(HOSTS[host](module, x))
    assert [match.refused for match in result.matches] == [None, None]
    assert_close(result.graph.run((x,)).outputs[0], module(x).detach())


def test_a_target_that_means_nothing() -> None:
    with pytest.raises(RecipeError, match="matches no layer"):
        Permute(targets=("fc3",)).apply(graph("fx", "transformer"))


def test_what_has_no_groups_gathers_nothing() -> None:
    with pytest.raises(RecipeError, match="inputs"):
        Permute(inputs=True)
    odd = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8))
    odd.get_parameter("2.weight").data[:] = 1.0
    matches = Permute(pattern="2:4", inputs=True).apply(FxGraph.from_module(odd.eval(), torch.randn(3, 6))).matches
    assert [str(match.refused).split(": ")[1] for match in matches] == [
        "no order found in which the pattern keeps more than 50.0% of the scores",
        "6 inputs are no multiple of 4",
    ]


def test_what_is_left_alone() -> None:
    odd = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 8))
    found = FxGraph.from_module(odd.eval(), torch.randn(3, 8))
    [match] = Permute().apply(found).matches
    assert "no multiple of 4" in str(match.refused)
    assert list(Permute(ignore=("re:.*",)).find(found, Context())) == []
    assert len(list(Permute(targets=("0",)).find(found, Context()))) == 1
    assert {type(site) for site in found.sites(WeightSite)} == {Linear}


@pytest.mark.parametrize("pattern", ["1x4", "unstructured"])
def test_patterns_without_blocks_of_outputs(pattern: str) -> None:
    with pytest.raises(RecipeError, match="pattern"):
        Permute(pattern=pattern)
