from __future__ import annotations

import torch

from sparsecc.errors import Refused
from sparsecc.patterns.nm import NM


def test_sparsity_follows_from_the_pattern() -> None:
    assert NM(1, 4).fixed_sparsity == 0.75
    assert NM(1, 4).project(torch.tensor([[1.0, 1, 1, 1]]), 0.1).tolist() == [[True, False, False, False]]


def test_refuses_what_does_not_divide_and_what_keeps_too_much() -> None:
    assert NM(2, 4).check(8, 30) == Refused("30 columns (inputs) are no multiple of 4, 2:4 needs that")
    crowded = torch.tensor([[True, True, True, False]])
    assert NM(2, 4).cover(crowded) == Refused("1 of 1 groups of 4 keep more than 2")
    assert NM(2, 4).holds(crowded) == Refused("1 of 1 groups of 4 do not keep exactly 2")


def test_groups_with_room_are_filled_at_the_lowest_positions() -> None:
    assert torch.as_tensor(NM(2, 4).cover(torch.tensor([[False, False, False, True]]))).tolist() == [[True, False, False, True]]
