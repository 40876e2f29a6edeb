"""What holds for every precision: keys, rounding to the nearest, packing that changes nothing, damage that is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsecc import formats, precisions, registry
from sparsecc.errors import ModelError, RecipeError
from sparsecc.precisions.base import Quantized
from tests.laws.members import PRECISIONS

every_key = pytest.mark.parametrize("key", [precision.key for precision in PRECISIONS])


def quantized(key: str, weight: torch.Tensor) -> Quantized:
    return precisions.from_key(key).quantize(weight, largest_input=2.0)


@every_key
def test_keys_are_read_back(key: str) -> None:
    precision = precisions.from_key(key)
    assert precision.key == key
    assert precision.dtype in registry.members("precisions")
    for format in (None, formats.from_key("block:1x4"), formats.from_key("csr")):
        scheme = precisions.Scheme(precision, format)
        assert precisions.scheme_from_key(scheme.key) == scheme


@pytest.mark.parametrize(
    "key", ["int4", "int8:", "int8:static", "int8:6", "int8:7:calibrated", "int8:8", "bfloat16:calibrated", "int8/block", ""]
)
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(RecipeError):
        precisions.scheme_from_key(key)


@every_key
def test_weights_are_off_by_half_a_step_at_most(key: str) -> None:
    weight = torch.randn(5, 12) * torch.logspace(-3, 3, 5)[:, None]
    weight[2] = 0
    found = quantized(key, weight)
    step = found.scheme.precision.step * weight.abs().amax(dim=1, keepdim=True)
    assert ((found.dense() - weight).abs() <= step * 0.501).all()
    assert found.dense().dtype == torch.float32
    assert (found.dense()[2] == 0).all()
    assert found.nbytes < weight.numel() * 4


@every_key
def test_packing_changes_no_weight(key: str) -> None:
    weight = torch.randn(8, 16) * (torch.rand(8, 4) < 0.5).repeat_interleave(4, dim=1)
    dense = quantized(key, weight)
    packed = dense.packed(formats.from_key("block:1x4"), weight != 0)
    assert torch.equal(packed.dense(), dense.dense())
    assert packed.scheme.key == f"{key}/block:1x4"
    assert tuple(packed.tensors) == packed.scheme.tensor_names


@every_key
def test_inputs_are_rounded_once(key: str) -> None:
    found = quantized(key, torch.randn(4, 8))
    x = torch.randn(3, 8).clamp(-2, 2)
    once = found.scheme.precision.round_inputs(x, found.scales)
    assert 0 < float((once - x).abs().max()) <= 2 * found.scheme.precision.step
    torch.testing.assert_close(found.scheme.precision.round_inputs(once, found.scales), once)


def test_a_given_scale_clips() -> None:
    found = quantized("int8:calibrated", torch.randn(4, 8))
    assert float(found.scheme.precision.round_inputs(torch.tensor([[50.0]]), found.scales)) == pytest.approx(2.0)


def test_damage_is_named() -> None:
    found = quantized("int8", torch.randn(4, 8))
    with pytest.raises(ModelError, match=r"layer 'fc': its values have shape \(4, 8\), not \(5, 8\)"):
        replace(found, rows=5).dense("fc")
    with pytest.raises(ModelError, match="layer 'fc': its scales are damaged"):
        replace(found, tensors={**found.tensors, "scales": torch.ones(3)}).dense("fc")
    with pytest.raises(ModelError, match="needs calibration"):
        precisions.from_key("int8:calibrated").quantize(torch.randn(4, 8))
