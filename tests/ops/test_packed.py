"""The weight matrix behind packed tensors."""

from __future__ import annotations

import pytest
import torch

from sparsecc.formats import from_key, storing
from sparsecc.patterns import parse

PATTERNS = ("unstructured", "4x1", "2:4")


def _case(pattern: str) -> tuple[str, torch.Tensor, list[torch.Tensor]]:
    format = storing(parse(pattern))
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    keep = format.pattern.project(weight.abs(), 0.5)
    return format.key, weight * keep, list(format.pack(weight, keep).tensors.values())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_unpack_gives_the_matrix(pattern: str) -> None:
    key, weight, tensors = _case(pattern)
    assert torch.equal(torch.ops.sparsecc.unpack(tensors, key, 8, 16), weight)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_collect_takes_the_stored_entries(pattern: str) -> None:
    key, weight, tensors = _case(pattern)
    assert torch.equal(torch.ops.sparsecc.collect(weight, tensors, key), tensors[0])


@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_are_operators_that_torch_accepts(pattern: str) -> None:
    key, weight, tensors = _case(pattern)
    tensors[0] = tensors[0].clone().requires_grad_()
    torch.library.opcheck(torch.ops.sparsecc.unpack.default, (tensors, key, 8, 16))
    torch.library.opcheck(torch.ops.sparsecc.collect.default, (weight.clone().requires_grad_(), tensors, key))


def test_a_missing_tensor_is_refused() -> None:
    key, _, tensors = _case("2:4")
    with pytest.raises(ValueError, match="shorter"):
        from_key(key).hold(8, 16, tensors[:1])
