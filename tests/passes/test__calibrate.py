from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sparsecc.errors import RecipeError, SparseccError
from sparsecc.graph.sites import WeightSite
from sparsecc.passes import _calibrate
from sparsecc.passes._calibrate import covariances, measure
from sparsecc.passes.base import Context
from tests.passes.fake import FakeGraph, conv, linear


def test_inputs_of_a_linear_are_one_row_per_token() -> None:
    graph, x = FakeGraph([linear("a")]), torch.randn(2, 3, 64)
    stats = measure(graph, graph.sites(WeightSite), ("inputs",), Context(calibration=[(x,), (x,)]))
    assert torch.equal(stats["a"]["inputs"], torch.cat([x.reshape(6, 64)] * 2))


def test_inputs_of_a_convolution_are_in_the_order_of_its_matrix() -> None:
    site = conv("c", stride=(2, 1), padding=(1, 0, 2, 1), dilation=(1, 2))
    graph, x = FakeGraph([site]), torch.randn(2, 8, 9, 10)
    columns = measure(graph, [site], ("inputs",), Context(calibration=[(x,)]))["c"]["inputs"]
    expected = functional.conv2d(functional.pad(x, (0, 1, 1, 2)), site.weight, None, (2, 1), 0, (1, 2))
    actual = (columns @ site.matrix.T).reshape(2, *expected.shape[2:], 16).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_nothing_needed_nothing_run() -> None:
    assert measure(FakeGraph([linear("a")]), [linear("a")], (), Context()) == {"a": {}}


def test_what_cannot_be_measured() -> None:
    sites = [linear("a")]
    with pytest.raises(RecipeError, match="needs calibration inputs"):
        measure(FakeGraph(sites), sites, ("inputs",), Context(calibration=[]))
    with pytest.raises(SparseccError, match="no statistic is called 'hessian'"):
        measure(FakeGraph(sites), sites, ("hessian",), Context(calibration=[(torch.ones(1, 64),)]))


def test_covariances_are_sums_over_all_tokens_of_all_samples() -> None:
    sites = [linear("a"), linear("b", seed=1)]
    samples = [(torch.randn(3, 64),), (torch.randn(2, 5, 64),)]
    x = torch.cat([sample.reshape(-1, 64) for (sample,) in samples]).double()
    for covariance in covariances(FakeGraph(sites), sites, Context(calibration=samples)):
        assert covariance is not None
        torch.testing.assert_close(covariance, x.T @ x / 13)


def test_covariances_of_a_convolution_are_those_of_its_matrix() -> None:
    site, x = conv("c", padding=(1, 1, 1, 1)), torch.randn(2, 8, 9, 10)
    context = Context(calibration=[(x,)])
    columns = measure(FakeGraph([site]), [site], ("inputs",), context)["c"]["inputs"].double()
    [covariance] = covariances(FakeGraph([site]), [site], context)
    torch.testing.assert_close(covariance, columns.T @ columns / len(columns))


def test_only_so_many_covariances_are_summed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sites, runs = [linear(name) for name in "abcde"], []
    graph, run = FakeGraph(sites), FakeGraph.run
    monkeypatch.setattr(_calibrate, "COVARIANCE_BYTES", 2 * 8 * 64**2)
    monkeypatch.setattr(FakeGraph, "run", lambda self, inputs, taps=(): runs.append(list(taps)) or run(self, inputs, taps))
    found = list(covariances(graph, sites, Context(calibration=[(torch.randn(3, 64),)])))
    assert runs == [["a", "b"], ["c", "d"], ["e"]]
    assert all(torch.equal(covariance, found[0]) for covariance in found)


def test_without_calibration_there_are_none() -> None:
    assert list(covariances(FakeGraph([]), [linear("a"), linear("b")], Context())) == [None, None]
