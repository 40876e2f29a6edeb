from __future__ import annotations

import torch

from sparsecc.errors import Refused
from sparsecc.formats.block import BlockFormat
from sparsecc.patterns.block import Block


def test_the_layout_is_the_documented_one() -> None:
    weight = torch.arange(1.0, 25.0).reshape(4, 6)
    keep = torch.zeros(4, 6, dtype=torch.bool)
    keep[:2, 4:6] = keep[2:, 0:2] = keep[2:, 2:4] = True
    packed = BlockFormat(Block(2, 2)).pack(weight, keep)
    assert list(packed.tensors) == ["values", "cols", "row_ptr"]
    assert packed.tensors["values"].tolist() == [[[5, 6], [11, 12]], [[13, 14], [19, 20]], [[15, 16], [21, 22]]]
    assert packed.tensors["cols"].dtype == torch.uint16
    assert packed.tensors["cols"].tolist() == [2, 0, 1]
    assert packed.tensors["row_ptr"].dtype == torch.int32
    assert packed.tensors["row_ptr"].tolist() == [0, 1, 3]
    assert torch.equal(packed.dense(), weight * keep)


def test_many_block_columns_take_wide_indices() -> None:
    keep = torch.zeros(2, 140_000, dtype=torch.bool)
    keep[:, -2:] = True
    packed = BlockFormat(Block(2, 2)).pack(torch.ones(2, 140_000), keep)
    assert packed.tensors["cols"].dtype == torch.int32
    assert packed.tensors["cols"].tolist() == [69_999]


def test_more_blocks_than_row_pointers_count() -> None:
    assert isinstance(BlockFormat(Block(2, 1)).check(2**16, 2**16), Refused)
    assert BlockFormat(Block(2, 2)).check(2**16, 2**16) is None
