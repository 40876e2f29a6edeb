from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sparsecc.errors import RecipeError, SparseccError
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._calibrate import measure
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
