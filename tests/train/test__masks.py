from __future__ import annotations

import pytest
import torch

from sparsecc import patterns
from sparsecc.train._masks import cosine, cubic, on_the_way, pruned, regrown
from tests.train.views import random, view


def test_schedules() -> None:
    assert [cubic(p) for p in (0, 0.5, 1)] == [0, 0.875, 1]
    assert [cosine(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_an_nm_pattern_is_reached_one_by_one_and_never_too_early() -> None:
    two_of_eight = patterns.parse("2:8")
    ways = [on_the_way(two_of_eight, sparsity) for sparsity in (0, 0.1, 0.125, 0.3, 0.5, 0.74, 0.75)]
    assert [way and str(way) for way in ways] == [None, None, "7:8", "6:8", "4:8", "3:8", "2:8"]
    assert on_the_way(patterns.parse("4x1"), 0) is None


def test_what_is_pruned_stays_so_even_beside_zero_weights() -> None:
    weight = torch.tensor([[0.0, 3.0, 0.0, 1.0]])
    keep = torch.tensor([[False, True, True, True]])
    assert pruned(view(weight, keep), 0.5).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "1:4"])
def test_the_smallest_go_and_the_steepest_come(pattern: str) -> None:
    weight, gradient = random(seed=1), random(seed=2).abs()
    start = view(weight, pattern=pattern, sparsity=0.75)
    keep = start.pattern.project(start.magnitude, 0.75)
    after = regrown(view(weight * keep, keep, gradient, pattern), 0.75, 0.25, gradient)
    assert start.pattern.holds(after) is None
    assert after.sum() == keep.sum()
    gone, new = keep & ~after, after & ~keep
    assert 0 < int(gone.sum()) <= 0.25 * int(keep.sum()) + 4
    assert int(gone.sum()) == int(new.sum())
    if pattern == "unstructured":
        assert weight.abs()[gone].max() < weight.abs()[keep & after].min()
        assert gradient[new].min() > gradient[~keep & ~after].max()


def test_nothing_is_exchanged_at_a_share_of_zero() -> None:
    weight = random()
    keep = weight.abs() > 0.7
    sparsity = 1 - int(keep.sum()) / keep.numel()
    assert torch.equal(regrown(view(weight, keep), sparsity, 0.0, random(seed=2).abs()), keep)


def test_an_nm_layer_that_gets_sparser_keeps_the_largest_of_each_group() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]])
    after = regrown(view(weight, weight > 0, pattern="1:4"), 0.75, 0.0, torch.zeros_like(weight))
    assert after.nonzero()[:, 1].tolist() == [3, 7]
