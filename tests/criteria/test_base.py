from __future__ import annotations

import pytest
import torch

from sparsecc.criteria.base import project_of, within_outputs
from sparsecc.patterns import parse


@pytest.mark.parametrize(("pattern", "unit"), [("unstructured", (1, 1)), ("2x3", (2, 3)), ("4x1", (4, 1)), ("2:4", (1, 1))])
def test_units_are_what_is_kept_or_dropped_whole(pattern: str, unit: tuple[int, int]) -> None:
    values, project = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)), project_of(parse(pattern))
    assert project.unit == unit
    sums = project.sums(values.t().contiguous().t())
    assert sums.shape == (8 // unit[0], 12 // unit[1])
    torch.testing.assert_close(sums.flatten(), parse(pattern).unit_scores(values))
    spread = project.spread(sums)
    assert spread.shape == values.shape
    torch.testing.assert_close(project.sums(spread), sums * unit[0] * unit[1])
    assert torch.equal(spread[: unit[0], : unit[1]], sums[0, 0].expand(unit))


def test_within_outputs_each_keeps_its_share() -> None:
    score = torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 8)[:, None]
    keep = within_outputs(project_of(parse("unstructured")))(score, 0.7)
    assert keep.sum(1).tolist() == [3] * 8


def test_within_outputs_each_row_of_blocks_keeps_its_share_and_odd_shares_add_up() -> None:
    score = torch.rand(16, 5, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 16)[:, None]
    keep = within_outputs(project_of(parse("4x1")))(score, 0.5)
    assert parse("4x1").holds(keep) is None
    assert sorted(keep[::4].sum(1).tolist()) == [2, 2, 3, 3]


def test_groups_are_within_an_output_as_they_are() -> None:
    project = project_of(parse("2:4"))
    assert within_outputs(project) is project
