"""Keys that nobody writes, a scale that clips, damage that is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsecc import precisions
from sparsecc.errors import ModelError, RecipeError
from sparsecc.precisions.base import Quantized


def quantized(key: str, weight: torch.Tensor) -> Quantized:
    return precisions.from_key(key).quantize(weight, largest_input=2.0)


@pytest.mark.parametrize(
    "key", ["int4", "int8:", "int8:static", "int8:6", "int8:7:calibrated", "int8:8", "bfloat16:calibrated", "int8/block", ""]
)
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(RecipeError):
        precisions.scheme_from_key(key)


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
