"""Sums of Kronecker products: the formula, the nearest one, shapes near to balanced within a budget of parameters and of work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.errors import Refused
from sparsecc.structures.kronecker import Kronecker
from sparsecc.structures.low_rank import LowRank

SIZES = [(Kronecker(4, 2, 3), 12, 16), (Kronecker(3, 4, 1), 12, 8), (Kronecker(6, 1, 2), 12, 5), (Kronecker(1, 4, 2), 7, 12)]


def summed(structure: Kronecker, rows: int, cols: int, seed: int = 0) -> Tensor:
    """Σ Aₖ ⊗ Bₖ by torch, of random ones."""
    generator = torch.Generator().manual_seed(seed)
    p, b = structure.blocks_out, structure.blocks_in
    pairs = [[torch.randn(shape, generator=generator) for shape in ((p, b), (rows // p, cols // b))] for _ in range(structure.terms)]
    return torch.stack([torch.kron(*pair) for pair in pairs]).sum(0)


@pytest.mark.parametrize(("structure", "rows", "cols"), SIZES)
def test_a_sum_of_kronecker_products_comes_back(structure: Kronecker, rows: int, cols: int) -> None:
    weight = summed(structure, rows, cols)
    torch.testing.assert_close(structure.project(weight).dense(), weight)


@pytest.mark.parametrize(("structure", "rows", "cols"), SIZES)
def test_the_error_is_what_the_singular_values_of_the_blocks_leave(structure: Kronecker, rows: int, cols: int) -> None:
    weight = torch.randn(rows, cols, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    blocks = torch.stack([part.flatten() for band in weight.chunk(structure.blocks_out) for part in band.chunk(structure.blocks_in, 1)])
    left_out = torch.linalg.svdvals(blocks)[structure.terms :].norm()
    torch.testing.assert_close((structure.project(weight).dense() - weight).norm(), left_out)


def test_all_terms_are_any_matrix_and_more_there_are_not() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(Kronecker(3, 2, 6).project(weight).dense(), weight)
    assert Kronecker(3, 2, 7).check(6, 8) == Refused("a 6×8 matrix of 3×2 blocks has 6 terms at most, not 7")


def test_a_row_and_a_column_for_each_term_is_low_rank() -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(Kronecker(6, 1, 2).project(weight).dense(), LowRank(2).project(weight).dense())


def test_tied_blocks_are_stored_once_and_worked_with_each_time() -> None:
    structure = Kronecker(32, 48, 5)
    assert structure.shapes(768, 3072) == ((1, 24 * 5, 64), (1, 32, 5 * 48))
    assert structure.params(768, 3072) == 5 * (32 * 48 + 24 * 64)
    assert structure.products(768, 3072) == 5 * (48 * 24 * 64 + 24 * 32 * 48)
    assert structure.project(torch.ones(768, 3072)).nbytes == 4 * structure.params(768, 3072)


@pytest.mark.parametrize(("rows", "cols"), [(768, 3072), (3072, 768), (64, 48), (35, 41)])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
def test_sized_keeps_the_work_within_the_budget_too_and_is_near_to_balanced(rows: int, cols: int, share: float) -> None:
    found = Kronecker.sized(rows, cols, share)
    assert len(found) <= 4
    for structure in found:
        assert structure.products(rows, cols) <= share * rows * cols
        assert structure.blocks_out**2 >= rows
        assert (cols // structure.blocks_in) ** 2 >= cols
    assert [s.params(rows, cols) for s in found] == sorted((s.params(rows, cols) for s in found), reverse=True)


def test_shapes_of_a_common_layer() -> None:
    assert {(s.blocks_out, s.blocks_in) for s in Kronecker.sized(768, 3072, 0.25)} == {(32, 48), (32, 24), (64, 48), (64, 24)}


def test_prime_sizes_have_none() -> None:
    assert Kronecker.sized(37, 41, 0.9) == []


def test_what_a_matrix_cannot_be() -> None:
    assert Kronecker(4, 3).check(12, 9) is None
    assert Kronecker(4, 3).check(10, 9) == Refused("10 rows (outputs) are no multiple of 4 blocks, kronecker:4x3:1 needs that")
    assert Kronecker(4, 3).check(12, 10) == Refused("10 columns (inputs) are no multiple of 3 blocks, kronecker:4x3:1 needs that")
