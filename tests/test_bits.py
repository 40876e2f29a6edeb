from __future__ import annotations

import pytest
import torch

from sparsecc.bits import numbers_of_bytes, pack_bits, unpack_bits


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_what_is_packed_is_looked_up(width: int) -> None:
    numbers = torch.randint(0, 2**width, (3, 5, 13), generator=torch.Generator().manual_seed(width), dtype=torch.uint8)
    packed = pack_bits(numbers, width)
    assert packed.dtype == torch.uint8 and packed.shape == (3, 5, -(-13 * width // 8))
    found = torch.from_numpy(numbers_of_bytes(width))[packed.long()].flatten(-2)
    assert torch.equal(found[..., :13], numbers.int())
    assert not found[..., 13:].any()


def test_the_first_is_in_the_lowest_bits() -> None:
    assert pack_bits(torch.tensor([True, False, False, True])).tolist() == [0b1001]
    assert pack_bits(torch.tensor([3, 1, 0, 0, 2], dtype=torch.uint8), 2).tolist() == [0b00_00_01_11, 0b10]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 278])
def test_flags_come_back(count: int) -> None:
    keep = torch.rand(3, 5, count, generator=torch.Generator().manual_seed(count)) < 0.5
    bits = pack_bits(keep)
    assert bits.dtype == torch.uint8
    assert bits.shape == (3, 5, -(-count // 8))
    assert torch.equal(unpack_bits(bits, count), keep)
    assert (bits[..., 0] & 1).bool().equal(keep[..., 0])
