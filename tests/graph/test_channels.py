"""Where channels are after reshapes and permutations, held against what torch does with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.graph.channels import Axis, extent, members

UNITS = 4


def labels(shape: list[int], axis: Axis) -> Tensor:
    """Each entry says to which unit it belongs."""
    indices = torch.arange(shape[axis.at]) // axis.size % UNITS
    return indices.reshape([-1 if place == axis.at else 1 for place in range(len(shape))]).expand(shape)


@pytest.mark.parametrize(
    ("source", "axis", "target", "expected"),
    [
        ([2, 5, 32], Axis(2, 8), [2, 5, 4, 8], Axis(2)),
        ([2, 5, 4, 8], Axis(2), [2, 5, 32], Axis(2, 8)),
        ([2, 5, 96], Axis(2, 8), [2, 5, 3, 4, 8], Axis(3)),
        ([2, 4, 5, 8], Axis(1), [8, 5, 8], Axis(0)),
        ([8, 5, 8], Axis(0), [2, 4, 5, 8], Axis(1)),
        ([2, 4, 3, 5, 8], Axis(1), [2, 12, 5, 8], Axis(1, 3)),
        ([2, 5, 96], Axis(2, 24), [2, 5, 12, 8], Axis(2, 3)),
        ([10, 32], Axis(1, 8), [2, 5, 32], Axis(2, 8)),
        ([2, 5, 32], Axis(2, 8), [10, 1, 32], Axis(2, 8)),
        ([2, 5, 32], Axis(2, 8), [2, 5, 8, 4], Axis(2, 2)),
        ([2, 5, 32], Axis(2, 8), [2, 5, 16, 2], Axis(2, 4)),
        ([2, 5, 32], Axis(2, 8), [2, 160], Axis(1, 8)),
        ([2, 5, 32], Axis(2, 8), [2, 5, 2, 16], None),
    ],
)
def test_reshapes(source: list[int], axis: Axis, target: list[int], expected: Axis | None) -> None:
    found = axis.reshaped(source, target, UNITS)
    assert found == expected
    if found is not None:
        assert torch.equal(labels(source, axis).reshape(target), labels(target, found))


def test_reshapes_with_names() -> None:
    assert Axis(2, 8).reshaped(["b", "t", 32], ["b", "t", 4, 8], UNITS) == Axis(2)
    assert Axis(1).reshaped(["b", 4, "t", 8], [None, "t", 8], UNITS) == Axis(0)
    assert Axis(1).reshaped(["b", 4, "t", 8], ["b", 4, "s", 8], UNITS) is None
    assert Axis(1).reshaped(["b", 4, None, 8], ["b", 4, None, 8], UNITS) is None  # unknown sizes may differ


def test_permutations_and_broadcasting() -> None:
    assert Axis(2, 3).permuted([0, 2, 1, 3]) == Axis(1, 3)
    assert Axis(0, 3).widened(2, 4) == Axis(2, 3)


def test_extents_and_members() -> None:
    assert extent(Axis(1, 8), [2, 96], UNITS, 3) == 72
    assert extent(Axis(0), ["b"], UNITS, 3) is None
    assert members(torch.tensor([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]
