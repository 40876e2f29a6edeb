"""Steps, ranges and zeros; the integers that kernels read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsecc import formats, precisions
from sparsecc.errors import ModelError, RecipeError
from sparsecc.precisions._groups import InGroups
from sparsecc.precisions.base import Integers, Quantized

every_key = pytest.mark.parametrize("key", ["int4:32", "int4:row:asymmetric", "int8_weight_only:128:asymmetric", "int8_weight_only:row"])


def integers(of: Quantized) -> Integers:
    found = of.integers()
    assert found is not None
    return found


def test_symmetric_steps_use_all_levels() -> None:
    weight = torch.tensor([[7.5, -7.5, 1.0, 0.4], [0.0, 0.0, 0.0, 0.0]])
    found = integers(precisions.from_key("int4:row").quantize(weight))
    assert found.scales.tolist() == [[1.0], [1.0]]
    assert found.numbers.tolist() == [[7, -8, 1, 0], [0, 0, 0, 0]]
    assert not found.zeros.any()


def test_asymmetric_numbers_reach_from_the_least_to_the_largest_weight() -> None:
    weight = torch.tensor([[-5.0, 10.0, 0.0, 3.0], [1.0, 15.0, 7.0, 2.0], [-15.0, -1.0, -3.0, -2.0]])
    found = integers(precisions.from_key("int4:row:asymmetric").quantize(weight))
    assert found.scales.tolist() == [[1.0], [1.0], [1.0]]
    assert found.zeros.tolist() == [[-3], [-8], [7]]
    assert found.numbers.tolist() == [[-8, 7, -3, 0], [-7, 7, -1, -6], [-8, 6, 4, 5]]


@every_key
@pytest.mark.parametrize("format", [None, "nm:2:4", "csr", "block:4x1"])
def test_scale_times_number_less_zero_is_the_weight(key: str, format: str | None) -> None:
    weight = torch.randn(8, 76) + 0.5
    stored = precisions.from_key(key).quantize(weight)
    if format is not None:
        packing = formats.from_key(format)
        keep = packing.pattern.project(weight.abs(), 0.5)
        stored = precisions.from_key(key).quantize(weight * keep).packed(packing, keep)
    found = integers(stored)
    assert (found.numbers.dtype, found.scales.dtype, found.zeros.dtype) == (torch.int8, torch.float32, torch.int8)
    half = 2 ** (stored.scheme.precision.value_bits - 1)
    assert int(found.numbers.min()) >= -half and int(found.numbers.max()) < half
    scales, zeros = (of.repeat_interleave(found.group, dim=1)[:, :76] for of in (found.scales, found.zeros))
    assert torch.equal(scales * (found.numbers.float() - zeros.float()), stored.dense())


@every_key
def test_a_weight_of_zero_is_exact(key: str) -> None:
    weight = torch.rand(6, 100) + 1
    weight[:, ::3] = 0
    stored = precisions.from_key(key).quantize(weight)
    assert torch.equal(stored.dense() == 0, weight == 0)
    assert torch.equal(stored.keep(), weight != 0)
    assert stored.nonzeros == int(weight.count_nonzero())


def test_the_last_group_may_be_short_and_a_row_may_end_in_half_a_byte() -> None:
    stored = precisions.from_key("int4:32").quantize(torch.randn(4, 75))
    assert {name: tuple(tensor.shape) for name, tensor in stored.tensors.items()} == {"values": (4, 38), "scales": (4, 3)}
    assert stored.bytes_float32 == 4 * 4 * 75
    assert stored.nbytes == 4 * 38 + 4 * 4 * 3


def test_weights_of_any_size_have_finite_steps() -> None:
    weight = torch.tensor([[3e38, -3e38, 1.0, 0.0], [1e-44, -1e-44, 0.0, 0.0]])
    for key in ("int4:row", "int4:row:asymmetric", "int8_weight_only:row"):
        assert precisions.from_key(key).quantize(weight).dense().isfinite().all()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@every_key
def test_scales_are_numbers_of_the_type_of_the_weight_so_that_kernels_need_not_round_them(key: str, kind: torch.dtype) -> None:
    weight = torch.randn(8, 76, dtype=kind)
    precision, x = precisions.from_key(key), torch.randn(200, 76)
    assert isinstance(precision, InGroups)
    for stored in (precision.quantize(weight), precision.quantize_for(weight, x.T @ x)):
        scales = integers(stored).scales
        assert scales.dtype == torch.float32
        assert torch.equal(scales.to(kind).float(), scales)
        assert float((stored.dense() - weight.float()).norm() / weight.float().norm()) < 0.2


def test_damage_is_named() -> None:
    found = precisions.from_key("int4:32:asymmetric").quantize(torch.randn(4, 75))
    with pytest.raises(ModelError, match=r"layer 'fc': its values in bytes \(4, 38\) are damaged"):
        replace(found, cols=80).dense("fc")
    with pytest.raises(ModelError, match=r"layer 'fc': its scales are damaged: .* for groups of 32 in 75 columns"):
        replace(found, tensors={**found.tensors, "scales": torch.ones(4, 2)}).dense("fc")


@pytest.mark.parametrize("key", ["int4", "int4:16", "int4:128:symmetric", "int4:asymmetric", "int8_weight_only", "int4:row:asymmetric:7"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(RecipeError):
        precisions.scheme_from_key(key)


def test_what_nobody_sets() -> None:
    assert precisions.usual("int4").key == "int4:128"
    assert precisions.usual("int8_weight_only").key == "int8_weight_only:row"
    assert precisions.usual("int8").key == "int8"
