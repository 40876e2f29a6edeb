"""What holds for every refinement under every pattern."""

from __future__ import annotations

import pytest
import torch

from sparsecc.criteria.base import project_of
from sparsecc.criteria.wanda import Wanda
from sparsecc.patterns.base import Pattern
from sparsecc.refinements.base import Refinement
from tests.laws.members import REFINEMENTS
from tests.laws.test_criteria import every_pattern, stats_for, weight_for

every_refinement = pytest.mark.parametrize("refinement", REFINEMENTS.values(), ids=REFINEMENTS.keys())


@every_pattern
@every_refinement
def test_the_mask_has_the_pattern_and_as_dense_as_before(refinement: Refinement, pattern: Pattern) -> None:
    weight = weight_for(pattern)
    keep = Wanda().choose(weight, project_of(pattern), 0.6, stats_for(weight), seed=1).keep
    found = refinement.refine(weight, keep, project_of(pattern), stats_for(weight))
    assert found.dtype == torch.bool
    assert pattern.holds(found) is None
    assert int(found.sum()) == int(keep.sum())


@every_pattern
@every_refinement
def test_the_same_twice_and_nothing_modified(refinement: Refinement, pattern: Pattern) -> None:
    weight, stats = weight_for(pattern), stats_for(weight_for(pattern))
    keep = Wanda().choose(weight, project_of(pattern), 0.6, stats, seed=1).keep
    held = weight.clone(), keep.clone()
    first = refinement.refine(weight, keep, project_of(pattern), stats)
    second = refinement.refine(weight.t().contiguous().t(), keep, project_of(pattern), stats)
    assert torch.equal(first, second)
    assert torch.equal(weight, held[0])
    assert torch.equal(keep, held[1])
