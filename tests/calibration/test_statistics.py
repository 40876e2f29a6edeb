from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.calibration.context import Context
from sparsecc.calibration.statistics import calibrated, in_groups, largest_inputs, second_moments, statistics
from sparsecc.errors import RecipeError, SparseccError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import pipeline
from sparsecc.recipe import Recipe
from tests.laws.hosts import graph, samples
from tests.passes.fake import FakeGraph, conv, linear


def inputs_of(site: WeightSite, *samples: Tensor) -> Tensor:
    [(_, stats)] = calibrated(FakeGraph([site]), [site], ("inputs",), Context(calibration=[(x,) for x in samples]))
    return stats["inputs"]


def test_inputs_of_a_linear_are_one_row_per_token() -> None:
    x = torch.randn(2, 3, 64)
    assert torch.equal(inputs_of(linear("a"), x, x), torch.cat([x.reshape(6, 64)] * 2))


def test_inputs_of_a_convolution_are_in_the_order_of_its_matrix() -> None:
    site = conv("c", stride=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2))
    x = torch.randn(2, 8, 9, 10)
    expected = functional.conv2d(functional.pad(x, (0, 1, 1, 2)), site.weight, None, (2, 1), 0, (1, 2))
    actual = (inputs_of(site, x) @ site.matrix.T).reshape(2, *expected.shape[2:], 16).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_statistics_are_of_all_tokens_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.calibration.sums._ROWS", 8)  # pieces that join samples, and cut one
    samples = [torch.randn(rows, 5) for rows in (3, 0, 4, 19)]
    x = torch.cat(samples).double()
    found = statistics(iter(samples), ("norms", "hessian", "means", "variances", "inputs", "tokens"))
    assert int(found["tokens"]) == 26
    assert torch.equal(found["inputs"], x.float())
    torch.testing.assert_close(found["norms"], x.square().sum(0).sqrt())
    torch.testing.assert_close(found["hessian"], x.T @ x / 26, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["means"], x.mean(0))
    torch.testing.assert_close(found["variances"], x.var(0, correction=0))


def test_no_statistics_where_nothing_arrives() -> None:
    assert statistics([torch.zeros(0, 5)], ("norms", "hessian", "means")) == {}
    assert statistics([], ("inputs",)) == {}


def test_what_cannot_be_measured() -> None:
    sites = [linear("a")]
    with pytest.raises(RecipeError, match="needs calibration inputs"):
        list(calibrated(FakeGraph(sites), sites, ("inputs",), Context(calibration=[])))
    with pytest.raises(SparseccError, match="no statistic is called 'gradient'"):
        list(calibrated(FakeGraph(sites), sites, ("gradient",), Context(calibration=[(torch.ones(1, 64),)])))


def test_layers_that_read_the_same_tensor_share_its_statistics() -> None:
    sites = [linear("a"), linear("b", seed=1)]
    first, second = (stats for _, stats in calibrated(FakeGraph(sites), sites, ("hessian",), Context(calibration=[(torch.randn(3, 64),)])))
    assert first is second


def test_layers_that_read_one_value_come_together() -> None:
    sites = [linear("a"), linear("b", seed=1), conv("c")]
    with pytest.raises(RecipeError, match="needs calibration inputs"):
        list(in_groups(FakeGraph(sites), sites, ("norms",), Context()))
    linears = FakeGraph(sites[:2])
    [group] = in_groups(linears, sites[:2], ("norms",), Context(calibration=[(torch.randn(3, 64),)]))
    assert [site.name for site, _ in group] == ["a", "b"]
    assert group[0][1] is group[1][1]


def test_more_samples_than_chunks() -> None:
    site, samples = linear("a"), [torch.randn(1 + i % 3, 64) for i in range(41)]
    x = torch.cat(samples)
    assert torch.equal(inputs_of(site, *samples), x)
    [(_, stats)] = calibrated(FakeGraph([site]), [site], ("hessian",), Context(calibration=[(each,) for each in samples]))
    torch.testing.assert_close(stats["hessian"], x.double().T @ x.double() / len(x))


def test_second_moments() -> None:
    sites = [linear("a"), conv("c", padding=(1, 1, 1, 1))]
    x = torch.randn(2, 8, 9, 10)
    context = Context(calibration=[(x,)])
    columns = inputs_of(sites[1], x).double()
    [stats] = second_moments(FakeGraph(sites[1:]), sites[1:], context)
    torch.testing.assert_close(stats["hessian"], columns.T @ columns / len(columns), rtol=1e-5, atol=1e-6)
    assert int(stats["tokens"]) == len(columns)
    assert list(second_moments(FakeGraph([]), sites, Context())) == [{}, {}]


def test_the_largest_input_of_all_samples() -> None:
    sites = [linear("a")]
    samples = [(torch.full((1, 64), value),) for value in (1.0, -3.0, 2.0)]
    assert largest_inputs(FakeGraph(sites), sites, Context(calibration=samples)) == {"a": 3.0}
    broken = [*samples, (torch.full((1, 64), torch.nan),)]
    assert str(largest_inputs(FakeGraph(sites), sites, Context(calibration=broken))["a"]) == "its calibration inputs hold NaN or infinity"
    silent = [(torch.zeros(2, 64),)]
    assert str(largest_inputs(FakeGraph(sites), sites, Context(calibration=silent))["a"]) == "its calibration inputs are all zero"
    empty = [(torch.zeros(0, 64),)]
    assert str(largest_inputs(FakeGraph(sites), sites, Context(calibration=empty))["a"]) == "no calibration input reaches it"


def test_what_is_known_of_the_model_as_it_came_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first pass that changes something; the next sees its inputs as they are by then."""
    dense, context = graph("fx", "transformer"), Context(calibration=samples("transformer"))
    sites = dense.sites(WeightSite)
    known = {site.name: stats for site, stats in calibrated(dense, sites, ("hessian", "norms", "tokens"), context)}
    recipe = Recipe.load({"passes": [{"prune": {"criterion": "wanda", "min_weights": 0}}]})
    whole, _ = pipeline.run(dense, recipe, context)
    walks, walk = list[Any](), FxGraph.walk
    monkeypatch.setattr(FxGraph, "walk", lambda *arguments: walks.append(arguments) or walk(*arguments))
    again, _ = pipeline.run(dense, recipe, replace(context, known=known))
    for before, after in zip(whole.sites(WeightSite), again.sites(WeightSite), strict=True):
        assert (before.weight == 0).sum() == (after.weight == 0).sum()
    assert not walks and torch.equal(whole.sites(WeightSite)[0].weight, again.sites(WeightSite)[0].weight)
    pipeline.run(dense, recipe, replace(context, known={**known, sites[0].name: {"hessian": known[sites[0].name]["hessian"]}}))
    assert len(walks) == 1  # not all that is needed is known
    twice = Recipe.load({"passes": [*({"prune": {"criterion": "wanda", "min_weights": 0, "sparsity": share}} for share in (0.3, 0.6))]})
    pipeline.run(dense, twice, replace(context, known=known))
    assert len(walks) == 2
