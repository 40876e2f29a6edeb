from __future__ import annotations

import pytest
import torch

from sparsecc.errors import Refused
from sparsecc.patterns.block import Block


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((6, 8), "6 rows (outputs) are no multiple of 4, 4x2 blocks need that"),
        ((8, 7), "7 columns (inputs) are no multiple of 2, 4x2 blocks need that"),
    ],
)
def test_refuses_what_does_not_divide(shape: tuple[int, int], reason: str) -> None:
    assert Block(4, 2).check(*shape) == Refused(reason)
    assert Block(4, 2).holds(torch.ones(shape, dtype=torch.bool)) == Refused(reason)
    assert Block(4, 2).cover(torch.ones(shape, dtype=torch.bool)) == Refused(reason)


def test_a_block_is_worth_the_sum_of_its_scores() -> None:
    score = torch.tensor([[9.0, 3.0], [0.0, 7.0]])  # columns: 9 and 10
    assert Block(2, 1).project(score, 0.5).tolist() == [[False, True], [False, True]]


def test_broken_blocks_are_counted() -> None:
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep[0, 0] = False
    assert Block(2, 1).holds(keep) == Refused("1 of 8 blocks of 2x1 are neither kept nor dropped whole")
    assert torch.equal(torch.as_tensor(Block(2, 1).cover(keep)), torch.ones(4, 4, dtype=torch.bool))


def test_the_mask_does_not_depend_on_strides() -> None:
    score = torch.rand(64, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Block(16, 1).project(score, 0.5), Block(16, 1).project(score.t().contiguous().t(), 0.5))
