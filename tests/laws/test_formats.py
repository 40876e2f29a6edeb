"""What holds for every format, whatever the shape, the scores and the sparsity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecc import formats
from sparsecc.errors import Refused
from sparsecc.formats.base import Format
from tests.laws.members import FORMATS

every_format = pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.key)
SPARSITY = st.floats(0, 0.999)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@st.composite
def matrices(draw: st.DrawFn, format: Format, *, ties: bool = False) -> Tensor:
    """A matrix that the format can store; ties: of very few distinct values."""
    rows, cols = (unit * draw(st.integers(1, 6)) for unit in smallest(format))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if ties:
        return torch.randint(-2, 3, (rows, cols), generator=generator).float()
    return torch.randn(rows, cols, generator=generator).to(draw(DTYPES))


def smallest(format: Format) -> tuple[int, int]:
    """The smallest shape that it stores."""
    return next((r, c) for r in range(1, 65) for c in range(1, 65) if format.check(r, c) is None)


def units(format: Format, keep: Tensor) -> int:
    return int(keep.sum()) // format.unit_size


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_packing_is_bit_exact_and_its_bytes_are_as_said(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    keep = format.project(weight.abs(), sparsity)
    packed = format.pack(weight, keep)
    assert torch.equal(packed.dense(), torch.where(keep, weight, 0))
    assert packed.dense().dtype == weight.dtype
    assert packed.nbytes == format.bytes_packed(packed.rows, packed.cols, int(keep.sum()), weight.element_size())
    assert next(iter(packed.tensors)) == "values"
    assert packed.tensors["values"].numel() == int(keep.sum())


@every_format
@given(data=st.data(), sparsity=SPARSITY, ties=st.booleans())
def test_a_projection_is_held_and_counted_exactly(format: Format, data: st.DataObject, sparsity: float, ties: bool) -> None:
    score = data.draw(matrices(format, ties=ties))
    keep = format.project(score, sparsity)
    assert keep.dtype == torch.bool
    assert keep.shape == score.shape
    assert format.holds(keep) is None
    assert torch.equal(torch.as_tensor(format.cover(keep)), keep)
    asked = sparsity if format.fixed_sparsity is None else format.fixed_sparsity
    total = score.numel() // format.unit_size
    assert units(format, keep) == total - round(asked * total)


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_no_dropped_unit_scores_higher_than_a_kept_one(format: Format, data: st.DataObject, sparsity: float) -> None:
    score = data.draw(matrices(format, ties=True))
    keep = format.project(score, sparsity)
    scores, kept = format.unit_scores(score), format.unit_scores(keep.float()) > 0
    competing = format.pattern.split(":")  # N:M: within a group only
    for group, mask in zip(*(t.split(int(competing[1])) if len(competing) == 2 else [t] for t in (scores, kept)), strict=True):
        if mask.any() and not mask.all():
            assert group[mask].min() >= group[~mask].max()
            on_the_line = group == group[mask].min()  # ties: the lower index stays
            order = mask[on_the_line].int()
            assert torch.equal(order, order.sort(descending=True).values)


@every_format
@given(data=st.data(), two=st.tuples(SPARSITY, SPARSITY))
def test_more_sparsity_keeps_a_subset(format: Format, data: st.DataObject, two: tuple[float, float]) -> None:
    score = data.draw(matrices(format, ties=True))
    more, less = format.project(score, max(two)), format.project(score, min(two))
    assert not (more & ~less).any()


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_neither_strides_nor_repetition_matter(format: Format, data: st.DataObject, sparsity: float) -> None:
    score = data.draw(matrices(format))
    keep = format.project(score, sparsity)
    assert torch.equal(keep, format.project(score.clone(), sparsity))
    transposed = score.t().contiguous().t()
    assert torch.equal(keep, format.project(transposed, sparsity))
    first, second = format.pack(score, keep), format.pack(transposed, keep.t().contiguous().t())
    for name, tensor in first.tensors.items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor.flatten().view(torch.uint8), second.tensors[name].flatten().view(torch.uint8))


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_packing_leaves_its_arguments_alone(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    keep = format.project(weight.abs(), sparsity)
    before = weight.clone(), keep.clone()
    packed = format.pack(weight, keep)
    packed.tensors["values"].zero_()
    assert torch.equal(weight, before[0])
    assert torch.equal(keep, before[1])


@every_format
@given(data=st.data())
def test_any_mask_that_can_be_covered_is_packed_without_loss(format: Format, data: st.DataObject) -> None:
    weight = data.draw(matrices(format, ties=True))
    cover = format.cover(weight != 0)
    if isinstance(cover, Refused):
        assert isinstance(format.holds(weight != 0), Refused)
        return
    assert not ((weight != 0) & ~cover).any()
    packed = format.pack(weight, weight != 0)
    assert torch.equal(packed.dense(), weight)
    assert packed.nbytes == format.bytes_packed(packed.rows, packed.cols, int(cover.sum()))


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_what_fits_says_is_true(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    keep = format.project(weight.abs(), sparsity)
    for fit in formats.fits(keep, itemsize=weight.element_size()):
        packed = fit.format.pack(weight, keep)
        assert packed.nbytes == fit.bytes_packed
        assert packed.tensors["values"].numel() == fit.stored
        assert torch.equal(packed.dense(), torch.where(keep, weight, 0))


@every_format
def test_keys_and_patterns_read_back(format: Format) -> None:
    assert formats.from_key(format.key) == format
    assert formats.from_pattern(format.pattern) == format


@every_format
def test_an_empty_and_a_full_mask(format: Format) -> None:
    rows, cols = (4 * unit for unit in smallest(format))
    weight = torch.randn(rows, cols)
    for keep in (torch.zeros(rows, cols, dtype=torch.bool), torch.ones(rows, cols, dtype=torch.bool)):
        if not isinstance(format.cover(keep), Refused):
            assert torch.equal(format.pack(weight, keep).dense(), weight * keep)


@every_format
def test_integers_are_packed_too(format: Format) -> None:
    """Autograd of the operators packs 1..n to learn which value is where."""
    rows, cols = (4 * unit for unit in smallest(format))
    weight = torch.arange(1, rows * cols + 1).reshape(rows, cols)
    keep = format.project(torch.rand(rows, cols), 0.5)
    assert torch.equal(format.pack(weight, keep).dense(), weight * keep)
