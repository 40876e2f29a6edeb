"""What holds for every format, whatever the shape, the weights and the mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc import formats, registry
from sparsecc.errors import Refused
from sparsecc.formats.base import Format
from sparsecc.formats.primitives import torch_ops
from tests.laws.members import FORMATS
from tests.laws.test_patterns import matrices, smallest
from tests.ops.decoding import written

every_format = pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.key)
SPARSITY = st.floats(0, 0.999)


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_packing_is_bit_exact_and_its_bytes_are_as_said(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    keep = format.pattern.project(weight.abs(), sparsity)
    packed = format.pack(weight, keep)
    assert torch.equal(packed.dense(), torch.where(keep, weight, 0))
    assert packed.dense().dtype == weight.dtype
    assert packed.nbytes == format.bytes_packed(packed.rows, packed.cols, int(keep.sum()), weight.element_size())
    assert next(iter(packed.tensors)) == "values"
    assert packed.tensors["values"].numel() == int(keep.sum())


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_the_shape_of_the_values_is_known_without_them(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    packed = format.pack(weight, format.pattern.project(weight.abs(), sparsity))
    values, *others = packed.tensors.items()
    if format.says_extents:
        sizes = format.extents(torch_ops(packed.rows, packed.cols), dict(others))
        assert [int(size) for [size] in sizes] == list(values[1].shape)


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_strides_do_not_matter(format: Format, data: st.DataObject, sparsity: float) -> None:
    score = data.draw(matrices(format))
    keep = format.pattern.project(score, sparsity)
    transposed = score.t().contiguous().t()
    first, second = format.pack(score, keep), format.pack(transposed, keep.t().contiguous().t())
    for name, tensor in first.tensors.items():
        assert tensor.is_contiguous()
        assert torch.equal(tensor.flatten().view(torch.uint8), second.tensors[name].flatten().view(torch.uint8))


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_packing_leaves_its_arguments_alone(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    keep = format.pattern.project(weight.abs(), sparsity)
    before = weight.clone(), keep.clone()
    packed = format.pack(weight, keep)
    packed.tensors["values"].zero_()
    assert torch.equal(weight, before[0])
    assert torch.equal(keep, before[1])


@every_format
@given(data=st.data())
def test_any_mask_that_can_be_covered_is_packed_without_loss(format: Format, data: st.DataObject) -> None:
    weight = data.draw(matrices(format, ties=True))
    cover = format.pattern.cover(weight != 0)
    if isinstance(cover, Refused):
        assert isinstance(format.pattern.holds(weight != 0), Refused)
        return
    assert not ((weight != 0) & ~cover).any()
    packed = format.pack(weight, weight != 0)
    assert torch.equal(packed.dense(), weight)
    assert packed.nbytes == format.bytes_packed(packed.rows, packed.cols, int(cover.sum()))


@every_format
@given(data=st.data(), sparsity=SPARSITY)
def test_what_fits_says_is_true(format: Format, data: st.DataObject, sparsity: float) -> None:
    weight = data.draw(matrices(format))
    keep = format.pattern.project(weight.abs(), sparsity)
    for fit in formats.fits(keep, registry.members("formats"), weight.element_size()):
        packed = fit.format.pack(weight, keep)
        assert packed.nbytes == fit.bytes_packed
        assert packed.tensors["values"].numel() == fit.stored
        assert torch.equal(packed.dense(), torch.where(keep, weight, 0))


@every_format
def test_keys_read_back_and_a_pattern_finds_its_format(format: Format) -> None:
    assert formats.from_key(format.key) == format
    assert type(format).of(format.pattern) == format
    assert len({format, formats.from_key(format.key)}) == 1


@every_format
def test_an_empty_and_a_full_mask(format: Format) -> None:
    rows, cols = (4 * unit for unit in smallest(format))
    weight = torch.randn(rows, cols)
    for keep in (torch.zeros(rows, cols, dtype=torch.bool), torch.ones(rows, cols, dtype=torch.bool)):
        if not isinstance(format.pattern.cover(keep), Refused):
            assert torch.equal(format.pack(weight, keep).dense(), weight * keep)


@every_format
def test_integers_are_packed_too(format: Format) -> None:
    """Autograd of the operators packs 1..n to learn which value is where."""
    rows, cols = (4 * unit for unit in smallest(format))
    weight = torch.arange(1, rows * cols + 1).reshape(rows, cols)
    keep = format.pattern.project(torch.rand(rows, cols), 0.5)
    assert torch.equal(format.pack(weight, keep).dense(), weight * keep)


@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_onnxruntime_decodes_to_the_same(format: Format, dtype: torch.dtype) -> None:
    rows, cols = (5 * unit for unit in smallest(format))
    weight = torch.randint(-9, 10, (rows, cols), generator=torch.Generator().manual_seed(2)).to(dtype)
    packed = format.pack(weight, format.pattern.project(weight.abs().float(), 0.5))
    assert torch.equal(written(format.decode, packed.tensors, rows, cols), packed.dense())
