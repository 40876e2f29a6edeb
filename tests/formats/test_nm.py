from __future__ import annotations

import pytest
import torch

from sparsecc.formats.nm import NMFormat
from sparsecc.patterns.nm import NM


def test_the_layout_is_the_documented_one() -> None:
    weight = torch.tensor([[1.0, 0, 0, 4, 0, 6, 7, 0, 9, 10, 0, 0]])
    packed = NMFormat(NM(2, 4)).pack(weight, weight != 0)
    assert list(packed.tensors) == ["values", "index"]
    assert packed.tensors["values"].tolist() == [[1, 4, 6, 7, 9, 10]]
    # positions 0 3 1 2 | 0 1, two bits each, the first lowest; the row is padded to a whole byte
    assert packed.tensors["index"].tolist() == [[0b10_01_11_00, 0b01_00]]
    assert packed.tensors["index"].dtype == torch.uint8
    assert torch.equal(packed.dense(), weight)


@pytest.mark.parametrize(("m", "bits"), [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (256, 8)])
def test_positions_take_as_many_bits_as_they_need(m: int, bits: int) -> None:
    assert NMFormat(NM(1, m)).bits == bits
    weight = torch.randn(3, 2 * m)
    keep = NM(1, m).project(weight.abs())
    packed = NMFormat(NM(1, m)).pack(weight, keep)
    assert packed.tensors["index"].shape == (3, -(-2 * bits // 8))
    assert torch.equal(packed.dense(), weight * keep)


def test_a_group_that_keeps_too_much_is_not_packed() -> None:
    with pytest.raises(ValueError, match="cannot be packed: 1 of 1 groups of 4 keep more than 2"):
        NMFormat(NM(2, 4)).pack(torch.ones(1, 4), torch.tensor([[True, True, True, False]]))


def test_groups_with_room_are_filled_with_zeros_at_the_lowest_positions() -> None:
    weight = torch.tensor([[0.0, 0, 0, 4]])
    packed = NMFormat(NM(2, 4)).pack(torch.tensor([[5.0, 0, 0, 4]]), weight != 0)
    assert packed.tensors["values"].tolist() == [[0, 4]]
