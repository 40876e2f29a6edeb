from __future__ import annotations

import pytest
import torch

from sparsecc.errors import Refused
from sparsecc.formats.nm import NM


def test_the_layout_is_the_documented_one() -> None:
    weight = torch.tensor([[1.0, 0, 0, 4, 0, 6, 7, 0, 9, 10, 0, 0]])
    packed = NM(2, 4).pack(weight, weight != 0)
    assert list(packed.tensors) == ["values", "index"]
    assert packed.tensors["values"].tolist() == [[1, 4, 6, 7, 9, 10]]
    # positions 0 3 1 2 | 0 1, two bits each, the first lowest; the row is padded to a whole byte
    assert packed.tensors["index"].tolist() == [[0b10_01_11_00, 0b01_00]]
    assert packed.tensors["index"].dtype == torch.uint8
    assert torch.equal(packed.dense(), weight)


@pytest.mark.parametrize(("m", "bits"), [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)])
def test_positions_take_as_many_bits_as_they_need(m: int, bits: int) -> None:
    assert NM(1, m).bits == bits
    weight = torch.randn(3, 2 * m)
    keep = NM(1, m).project(weight.abs())
    packed = NM(1, m).pack(weight, keep)
    assert packed.tensors["index"].shape == (3, -(-2 * bits // 8))
    assert torch.equal(packed.dense(), weight * keep)


def test_sparsity_follows_from_the_pattern() -> None:
    assert NM(1, 4).fixed_sparsity == 0.75
    assert NM(1, 4).project(torch.tensor([[1.0, 1, 1, 1]]), 0.1).tolist() == [[True, False, False, False]]


def test_refuses_what_does_not_divide_and_what_keeps_too_much() -> None:
    refused = NM(2, 4).check(8, 30)
    assert refused is not None
    assert refused.reason == "30 columns (inputs) are no multiple of 4, 2:4 needs that"
    crowded = torch.tensor([[True, True, True, False]])
    assert NM(2, 4).cover(crowded) == Refused("1 of 1 groups of 4 keep more than 2")
    assert NM(2, 4).holds(crowded) == Refused("1 of 1 groups of 4 do not keep exactly 2")
    with pytest.raises(ValueError, match="keep more than 2"):
        NM(2, 4).pack(torch.ones(1, 4), crowded)


def test_groups_with_room_are_filled_with_zeros_at_the_lowest_positions() -> None:
    weight = torch.tensor([[0.0, 0, 0, 4]])
    assert torch.as_tensor(NM(2, 4).cover(weight != 0)).tolist() == [[True, False, False, True]]
    packed = NM(2, 4).pack(torch.tensor([[5.0, 0, 0, 4]]), weight != 0)
    assert packed.tensors["values"].tolist() == [[0, 4]]
