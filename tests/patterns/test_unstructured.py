from __future__ import annotations

import torch

from sparsecc.patterns.unstructured import Unstructured


def test_counts_are_exact_and_ties_go_to_the_lower_index() -> None:
    assert Unstructured().project(torch.ones(2, 4), 0.5).tolist() == [[True] * 4, [False] * 4]
    assert int(Unstructured().project(torch.rand(7, 11), 0.3).sum()) == 77 - round(0.3 * 77)


def test_any_mask_and_any_shape_has_it() -> None:
    keep = torch.rand(3, 5) > 0.5
    assert Unstructured().holds(keep) is None
    assert Unstructured().cover(keep) is keep
    assert Unstructured().check(2**20, 2**20) is None
