from __future__ import annotations

import pytest
import torch

from sparsecc.errors import Refused
from sparsecc.formats.block import Block


def test_the_layout_is_the_documented_one() -> None:
    weight = torch.arange(1.0, 25.0).reshape(4, 6)
    keep = torch.zeros(4, 6, dtype=torch.bool)
    keep[:2, 4:6] = keep[2:, 0:2] = keep[2:, 2:4] = True
    packed = Block(2, 2).pack(weight, keep)
    assert list(packed.tensors) == ["values", "cols", "row_ptr"]
    assert packed.tensors["values"].tolist() == [[[5, 6], [11, 12]], [[13, 14], [19, 20]], [[15, 16], [21, 22]]]
    assert packed.tensors["cols"].dtype == torch.uint16
    assert packed.tensors["cols"].tolist() == [2, 0, 1]
    assert packed.tensors["row_ptr"].dtype == torch.int32
    assert packed.tensors["row_ptr"].tolist() == [0, 1, 3]
    assert torch.equal(packed.dense(), weight * keep)


@pytest.mark.parametrize(("shape", "reason"), [((6, 8), "6 rows .* no multiple of 4"), ((8, 7), "7 columns .* no multiple of 2")])
def test_refuses_what_does_not_divide(shape: tuple[int, int], reason: str) -> None:
    refused = Block(4, 2).check(*shape)
    assert isinstance(refused, Refused)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(refused.reason)
    assert isinstance(Block(4, 2).holds(torch.ones(shape, dtype=torch.bool)), Refused)
    assert isinstance(Block(4, 2).cover(torch.ones(shape, dtype=torch.bool)), Refused)


def test_a_block_is_worth_the_sum_of_its_scores() -> None:
    score = torch.tensor([[9.0, 3.0], [0.0, 7.0]])  # columns: 9 and 10
    assert Block(2, 1).project(score, 0.5).tolist() == [[False, True], [False, True]]


def test_broken_blocks_are_counted() -> None:
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep[0, 0] = False
    refused = Block(2, 1).holds(keep)
    assert refused is not None
    assert refused.reason == "1 of 8 blocks of 2x1 are neither kept nor dropped whole"
    assert torch.equal(torch.as_tensor(Block(2, 1).cover(keep)), torch.ones(4, 4, dtype=torch.bool))


def test_the_mask_does_not_depend_on_strides() -> None:
    score = torch.rand(64, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Block(16, 1).project(score, 0.5), Block(16, 1).project(score.t().contiguous().t(), 0.5))


def test_many_block_columns_take_wide_indices() -> None:
    keep = torch.zeros(2, 140_000, dtype=torch.bool)
    keep[:, -2:] = True
    packed = Block(2, 2).pack(torch.ones(2, 140_000), keep)
    assert packed.tensors["cols"].dtype == torch.int32
    assert packed.tensors["cols"].tolist() == [69_999]
