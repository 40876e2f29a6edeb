"""Neurons change their places, and the model computes what it did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.errors import RecipeError
from sparsecc.graph.fx import FxGraph
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.passes._orders import held, held_in_groups
from sparsecc.passes.base import Context
from sparsecc.passes.permute import Permute
from tests.laws.hosts import HOSTS, graph, model
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
