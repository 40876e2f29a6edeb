"""What holds for every pattern, whatever the shape, the scores and the sparsity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecc import formats, patterns
from sparsecc.errors import Refused
from sparsecc.formats.base import Format
from sparsecc.patterns.base import Pattern
from tests.laws.members import PATTERNS

every_pattern = pytest.mark.parametrize("pattern", PATTERNS, ids=str)
SPARSITY = st.floats(0, 0.999)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@st.composite
def matrices(draw: st.DrawFn, of: Pattern | Format, *, ties: bool = False) -> Tensor:
    """A matrix that has the pattern or can be stored; ties: of very few distinct values."""
    rows, cols = (unit * draw(st.integers(1, 6)) for unit in smallest(of))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if ties:
        return torch.randint(-2, 3, (rows, cols), generator=generator).float()
    return torch.randn(rows, cols, generator=generator).to(draw(DTYPES))


def smallest(of: Pattern | Format) -> tuple[int, int]:
    """The smallest shape that it takes."""
    return next((r, c) for r in range(1, 65) for c in range(1, 65) if of.check(r, c) is None)


def units(pattern: Pattern, keep: Tensor) -> int:
    return int(keep.sum()) // pattern.unit_size


@every_pattern
@given(data=st.data(), sparsity=SPARSITY, ties=st.booleans())
def test_a_projection_is_held_and_counted_exactly(pattern: Pattern, data: st.DataObject, sparsity: float, ties: bool) -> None:
    score = data.draw(matrices(pattern, ties=ties))
    keep = pattern.project(score, sparsity)
    assert keep.dtype == torch.bool
    assert keep.shape == score.shape
    assert pattern.holds(keep) is None
    assert torch.equal(torch.as_tensor(pattern.cover(keep)), keep)
    asked = sparsity if pattern.fixed_sparsity is None else pattern.fixed_sparsity
    total = score.numel() // pattern.unit_size
    assert units(pattern, keep) == total - round(asked * total)


@every_pattern
@given(data=st.data(), sparsity=SPARSITY)
def test_no_dropped_unit_scores_higher_than_a_kept_one(pattern: Pattern, data: st.DataObject, sparsity: float) -> None:
    score = data.draw(matrices(pattern, ties=True))
    keep = pattern.project(score, sparsity)
    scores, kept = pattern.unit_scores(score), pattern.unit_scores(keep.float()) > 0
    competing = str(pattern).split(":")  # N:M: within a group only
    for group, mask in zip(*(t.split(int(competing[1])) if len(competing) == 2 else [t] for t in (scores, kept)), strict=True):
        if mask.any() and not mask.all():
            assert group[mask].min() >= group[~mask].max()
            on_the_line = group == group[mask].min()  # ties: the lower index stays
            order = mask[on_the_line].int()
            assert torch.equal(order, order.sort(descending=True).values)


@every_pattern
@given(data=st.data(), two=st.tuples(SPARSITY, SPARSITY))
def test_more_sparsity_keeps_a_subset(pattern: Pattern, data: st.DataObject, two: tuple[float, float]) -> None:
    score = data.draw(matrices(pattern, ties=True))
    more, less = pattern.project(score, max(two)), pattern.project(score, min(two))
    assert not (more & ~less).any()


@every_pattern
@given(data=st.data(), sparsity=SPARSITY)
def test_neither_strides_nor_repetition_matter_and_scores_are_left_alone(pattern: Pattern, data: st.DataObject, sparsity: float) -> None:
    score = data.draw(matrices(pattern))
    before = score.clone()
    keep = pattern.project(score, sparsity)
    assert torch.equal(keep, pattern.project(score.clone(), sparsity))
    assert torch.equal(keep, pattern.project(score.t().contiguous().t(), sparsity))
    assert torch.equal(score, before)


@every_pattern
@given(data=st.data())
def test_a_cover_contains_the_mask_and_has_the_pattern(pattern: Pattern, data: st.DataObject) -> None:
    keep = data.draw(matrices(pattern, ties=True)) != 0
    cover = pattern.cover(keep)
    if isinstance(cover, Refused):
        assert isinstance(pattern.holds(keep), Refused)
        return
    assert not (keep & ~cover).any()
    assert pattern.holds(cover) is None


@every_pattern
def test_a_recipe_reads_what_it_writes(pattern: Pattern) -> None:
    assert patterns.parse(str(pattern)) == pattern
    assert len({pattern, patterns.parse(str(pattern))}) == 1


@every_pattern
def test_a_default_format_stores_its_masks_as_they_are(pattern: Pattern) -> None:
    rows, cols = (8 * unit for unit in smallest(pattern))
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(1))
    keep = pattern.project(weight.abs(), 0.5)
    packed = formats.storing(pattern).pack(weight, keep)
    assert torch.equal(packed.dense(), weight * keep)
    assert packed.values.numel() == int(keep.sum())
