from __future__ import annotations

import pytest
import torch

from sparsecc.criteria.base import project_of
from sparsecc.formats import from_pattern


@pytest.mark.parametrize(("pattern", "unit"), [("unstructured", (1, 1)), ("2x3", (2, 3)), ("4x1", (4, 1)), ("2:4", (1, 1))])
def test_units_are_what_is_kept_or_dropped_whole(pattern: str, unit: tuple[int, int]) -> None:
    values, project = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)), project_of(from_pattern(pattern))
    assert project.unit == unit
    sums = project.sums(values.t().contiguous().t())
    assert sums.shape == (8 // unit[0], 12 // unit[1])
    torch.testing.assert_close(sums.flatten(), from_pattern(pattern).unit_scores(values))
    spread = project.spread(sums)
    assert spread.shape == values.shape
    torch.testing.assert_close(project.sums(spread), sums * unit[0] * unit[1])
    assert torch.equal(spread[: unit[0], : unit[1]], sums[0, 0].expand(unit))
