"""The analytic projection: slice by slice an SVD, nearer than anything that alternating least squares finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.structures.base import Structured
from sparsecc.structures.monarch import MOST_BLOCKS, Monarch

SIZES = [(Monarch(2, 3, 1), 12, 8), (Monarch(4, 2, 2), 12, 16), (Monarch(3, 4, 1), 16, 12), (Monarch(1, 4, 2), 16, 6)]


def product(structure: Monarch, left: Tensor, right: Tensor) -> Tensor:
    """The formula of the class, by its indices: left [.., p, out/p, b·r], right [.., b, p·r, in/b] → [.., out, in]."""
    b, p, r = structure.blocks_in, structure.blocks_out, structure.rank
    terms = torch.einsum("...pobk,...bpki->...opbi", left.unflatten(-1, (b, r)), right.unflatten(-2, (p, r)))
    return terms.flatten(-2).flatten(-3, -2)


def permutation(blocks: int, size: int) -> Tensor:
    """The matrix that brings entry i·blocks + j to j·(size/blocks) + i."""
    return torch.eye(size, dtype=torch.float64)[torch.arange(size).reshape(-1, blocks).T.flatten()]


@pytest.mark.parametrize(("structure", "rows", "cols"), SIZES)
def test_the_dense_matrix_is_the_formula(structure: Monarch, rows: int, cols: int) -> None:
    found = structure.project(torch.randn(rows, cols))
    torch.testing.assert_close(found.dense(), product(structure, found.tensors["left"], found.tensors["right"]))


def test_of_rank_one_and_square_it_is_dao_and_others() -> None:
    """M = P L Pᵀ R, with √n blocks of √n × √n in L and R, and P the transpose of the √n × √n grid."""
    left, right = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    p = permutation(4, 16)
    monarch = p @ torch.block_diag(*left) @ p.T @ torch.block_diag(*right)
    ours = Structured(Monarch(4, 4), 16, 16, {"right": right, "left": left})
    torch.testing.assert_close(ours.dense(), monarch)
    torch.testing.assert_close(Monarch(4, 4).project(monarch).dense(), monarch)


@pytest.mark.parametrize(("structure", "rows", "cols"), [*SIZES, (Monarch(4, 8, 3), 192, 96)])
def test_a_planted_matrix_is_recovered(structure: Monarch, rows: int, cols: int) -> None:
    right, left = (torch.randn(shape) for shape in structure.shapes(rows, cols))
    weight = product(structure, left, right)
    assert (structure.project(weight).dense() - weight).norm() <= 1e-5 * weight.norm()


@pytest.mark.parametrize(("structure", "rows", "cols"), SIZES)
def test_never_worse_than_alternating_least_squares(structure: Monarch, rows: int, cols: int) -> None:
    """From 200 random starts, until nothing changes any more."""
    generator = torch.Generator().manual_seed(0)
    b, p, r = structure.blocks_in, structure.blocks_out, structure.rank
    weight = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    target = weight.reshape(rows // p, p, b, cols // b).permute(1, 2, 0, 3)
    right = torch.randn(200, p, b, r, cols // b, generator=generator, dtype=torch.float64)
    left = torch.empty(0)
    for _ in range(60):
        left = torch.linalg.lstsq(right.mT, target.mT.expand(200, -1, -1, -1, -1)).solution.mT
        right = torch.linalg.lstsq(left, target.expand(200, -1, -1, -1, -1)).solution
    tried = product(structure, left.permute(0, 1, 3, 2, 4).flatten(-2), right.transpose(1, 2).flatten(2, 3))
    errors = (tried - weight).flatten(1).norm(dim=1)
    ours = float((structure.project(weight).dense() - weight).norm())
    assert ours <= float(errors.min()) * (1 + 1e-12)
    assert float(errors.min()) <= ours * (1 + 1e-4)  # the search is no straw man


def test_sized_spans_the_block_counts() -> None:
    found = Monarch.sized(768, 3072, 0.25)
    assert len(found) == 24  # 1, 2, 4, 8, 16 on both sides, save one and one
    assert [s.params(768, 3072) for s in found] == sorted((s.params(768, 3072) for s in found), reverse=True)
    assert {s.blocks_in for s in Monarch.sized(35, 35, 0.5)} == {1, 5}
    assert max(s.blocks_out for s in Monarch.sized(4096, 64, 0.5)) == MOST_BLOCKS


def test_prime_sizes_have_none() -> None:
    assert Monarch.sized(37, 41, 0.9) == []


def test_what_a_matrix_cannot_be() -> None:
    assert Monarch(4, 2).check(10, 12) is None
    assert Monarch(4, 2).check(10, 13) == Refused("13 columns (inputs) are no multiple of 4 blocks, monarch:4x2:1 needs that")
    assert Monarch(4, 2).check(9, 12) == Refused("9 rows (outputs) are no multiple of 2 blocks, monarch:4x2:1 needs that")
    assert Monarch(4, 2, 4).check(10, 12) == Refused("a 5×3 slice has no rank 4")
