from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.api import account
from sparsecc.graph.sites import Conv2d, Linear
from sparsecc.report.base import Check, Report, totals
from sparsecc.structures.low_rank import LowRank

REPORT = Report(sparsecc="0", model="m", target="cpu")


def check(a, b):
    return account.checked(REPORT, [np.asarray(a)], [np.asarray(b)]).check


def test_equal_outputs():
    assert check([1.0, -2.0], [1.0, -2.0]) == Check(max_abs=0.0, max_rel=0.0, cosine=pytest.approx(1.0))
    assert check([0.0], [0.0]) == Check(max_abs=0.0, max_rel=0.0, cosine=1.0)
    assert check([np.inf, np.nan, 1.0], [np.inf, np.nan, 1.0]).max_abs == 0
    assert check(np.zeros((0, 3)), np.zeros((0, 3))).cosine == 1


def test_differences_are_relative_to_the_largest_magnitude():
    result = check([1.0, -4.5], [1.0, -4.0])
    assert (result.max_abs, result.max_rel) == (0.5, 0.125)


@pytest.mark.parametrize(("a", "b"), [([1.0], [np.nan]), ([np.inf], [-np.inf]), ([1.0], [[1.0]]), ([1.0], [0.0])])
def test_what_cannot_be_compared_is_as_wrong_as_can_be(a, b):
    assert check(a, b).max_rel == np.inf


def test_the_worst_of_all_outputs_and_samples_is_reported():
    report = account.checked(REPORT, [np.ones(2), np.ones(2)], [np.ones(2), np.full(2, 2.0)])
    assert report.check.max_abs == 1
    assert account.checked(report, [np.ones(2)], [np.ones(2)]).check.max_abs == 1


def test_output_error_of_a_linear():
    before = Linear(name="a", stored=torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    after = Linear(name="a", stored=torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    assert account._relative_error(before, after, torch.eye(2)) == pytest.approx(4 / 5)


def test_output_error_of_a_convolution_heeds_its_geometry():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    geometry = {"name": "c", "kernel": (3, 3), "stride": (2, 2), "padding": (0, 1, 2, 3)}
    before = Conv2d(stored=weight, **geometry)
    after = Conv2d(stored=weight * 0.5, **geometry)
    assert account._relative_error(before, after, torch.randn(1, 3, 9, 9)) == pytest.approx(0.5)


def test_a_structured_site_says_what_it_became():
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    structured = LowRank(2).project(weight)
    after = Linear(name="a", stored=structured)
    row = account._site(after, after, "", "", 0.25)
    assert (row.decision, row.pattern, row.format) == ("structured", "low_rank:2", "low_rank:2")
    assert (row.shape, row.bytes_dense, row.bytes_packed) == ((8, 6), 8 * 6 * 4, 2 * (8 + 6) * 4)
    assert (row.output_error, row.reason) == (0.25, "factored into 0.58 of the dense bytes")
    assert account._site(after, after, "no zeros", "substitute: low_rank:2", 0.25).reason == "substitute: low_rank:2"
    assert totals([row])["bytes_kept"] == row.bytes_packed
    before = Linear(name="a", stored=weight)
    left = (weight - structured.dense()).norm() / weight.norm()
    assert account._relative_error(before, after, torch.eye(6)) == pytest.approx(float(left))
