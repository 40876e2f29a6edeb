"""Neurons change their places, and the model computes what it did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import RecipeError
from sparsecc.graph.fx import FxGraph
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.passes.base import Context
from sparsecc.passes.permute import Permute, held, neighbours
from tests.laws.hosts import HOSTS, graph, model
from tests.tolerance import assert_close


def planted(rows: int = 64, cols: int = 40, height: int = 4) -> Tensor:
    """Rows of which `height` each listen to the same inputs, shuffled."""
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(rows // height, cols, generator=generator) < 0.5).float().repeat_interleave(height, 0)
    scores = patterns + 0.1 * torch.rand(rows, cols, generator=generator)
    return scores[torch.randperm(rows, generator=generator)]


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


def test_planted_blocks_are_found() -> None:
    scores = planted()
    rows = neighbours(scores, 4)
    assert sorted(rows.tolist()) == list(range(64))
    together = (scores[rows] > 0.5).reshape(16, 4, -1)
    assert (together == together[:, :1]).all()
    assert held(scores[rows], 4) > held(scores, 4) + 0.1


def test_what_is_left_alone() -> None:
    odd = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 8))
    found = FxGraph.from_module(odd.eval(), torch.randn(3, 8))
    [match] = Permute().apply(found).matches
    assert "no multiple of 4" in str(match.refused)
    assert list(Permute(ignore=("re:.*",)).find(found, Context())) == []
    assert len(list(Permute(targets=("0",)).find(found, Context()))) == 1
    assert {type(site) for site in found.sites(WeightSite)} == {Linear}


@pytest.mark.parametrize("pattern", ["2:4", "1x4", "unstructured"])
def test_patterns_without_blocks_of_outputs(pattern: str) -> None:
    with pytest.raises(RecipeError, match="pattern"):
        Permute(pattern=pattern)
