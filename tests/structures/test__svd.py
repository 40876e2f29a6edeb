from __future__ import annotations

import torch

from sparsecc.structures._svd import balanced, truncated


def test_truncated_is_exact_at_full_rank_and_balanced() -> None:
    matrices = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    left, right = truncated(matrices, 4)
    torch.testing.assert_close(left @ right, matrices)
    torch.testing.assert_close(left.norm(dim=-2), right.norm(dim=-1))


def test_balancing_changes_no_product_and_takes_zeros() -> None:
    left, right = torch.randn(5, 3), 100 * torch.randn(3, 4)
    right[1] = 0
    new_left, new_right = balanced(left, right)
    torch.testing.assert_close(new_left @ new_right, left @ right)
    torch.testing.assert_close(new_left.norm(dim=0)[[0, 2]], new_right.norm(dim=1)[[0, 2]])
    left[:, 2] = 0
    assert all(side.isfinite().all() for side in balanced(left, right))
