"""The descent: never up, never worse than the 2:4 it begins with, exact where nothing is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc import structures
from sparsecc.criteria.base import project_of
from sparsecc.criteria.sparsegpt import Sparsegpt
from sparsecc.errors import RecipeError, Refused
from sparsecc.passes._calibrate import relative_error
from sparsecc.structures.armor import CORE, MOST_BLOCK, Armor, descend
from sparsecc.structures.base import apply

SIZES = [(2, 24, 16), (4, 40, 24), (8, 16, 64), (3, 9, 12)]


def covariance(cols: int) -> Tensor:
    x = torch.randn(4 * cols, cols) @ torch.randn(cols, cols)
    return (x.T @ x / len(x)).double()


@pytest.mark.parametrize(("block", "rows", "cols"), SIZES)
@pytest.mark.parametrize("calibrated", [False, True])
def test_every_round_lowers_the_error(block: int, rows: int, cols: int, calibrated: bool) -> None:
    weight, h = torch.randn(rows, cols), covariance(cols) if calibrated else None
    rounds = list(descend(weight, h, block))
    assert len(rounds) > 2
    assert [found.error for found in rounds] == sorted((found.error for found in rounds), reverse=True)
    for found in rounds:
        assert CORE.pattern.holds(found.core != 0) is None
        lost = weight.double() - torch.block_diag(*found.output) @ found.core @ torch.block_diag(*found.input)
        assert found.error == pytest.approx(float((lost @ (torch.eye(cols).double() if h is None else h) * lost).sum()))


@pytest.mark.parametrize(("block", "rows", "cols"), SIZES)
def test_it_begins_with_sparsegpt_and_ends_below(block: int, rows: int, cols: int) -> None:
    weight, h = torch.randn(rows, cols), covariance(cols)
    pruned = Sparsegpt().choose(weight, project_of(CORE.pattern), 0.5, {"hessian": h}, 0).weight
    assert pruned is not None
    start = next(descend(weight, h, block))
    assert torch.equal(start.core, pruned.double())
    found = Armor(block).project(weight, h)
    assert relative_error(weight, found.dense(), h) < 0.95 * relative_error(weight, pruned, h)


def test_wider_blocks_come_nearer() -> None:
    weight, h = torch.randn(64, 64), covariance(64)
    errors = [relative_error(weight, Armor(block).project(weight, h).dense(), h) for block in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)


def test_what_is_2_of_4_already_stays() -> None:
    weight = torch.where(CORE.pattern.project(torch.randn(16, 32)), torch.randn(16, 32), 0.0)
    found = Armor(8).project(weight, covariance(32))
    assert torch.equal(found.dense(), weight)


@pytest.mark.parametrize("damage", ["dead input", "zero row", "no input at all"])
def test_singular_systems(damage: str) -> None:
    weight, h = torch.randn(16, 32), covariance(32)
    if damage == "zero row":
        weight[:8] = 0
    else:
        dead = slice(0, 8) if damage == "dead input" else slice(None)
        h[dead] = h[:, dead] = 0
    found = Armor(8).project(weight, h).dense()
    assert found.isfinite().all()
    assert relative_error(weight, found, h) <= 1


def test_the_factors_in_turn_are_the_dense_product() -> None:
    found = Armor(4).project(torch.randn(12, 8, dtype=torch.float64))
    entry, core, output = found.factors()
    assert core.packed is not None
    assert [tuple(factor.weight.shape) for factor in (entry, core, output)] == [(2, 4, 4), (1, 12, 8), (3, 4, 4)]
    dense = torch.block_diag(*output.weight) @ core.packed.dense() @ torch.block_diag(*entry.weight)
    x = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(apply((entry, core, output), x), x @ dense.T)


def test_sized_takes_the_widest_blocks_that_the_budget_pays_for() -> None:
    assert Armor.sized(384, 384, 0.5) == []  # the core alone has half of the parameters
    assert Armor.sized(384, 384, 0.6) == [Armor(16)]
    assert Armor.sized(1536, 384, 0.6) == [Armor(24)]
    assert Armor.sized(384, 384, 0.99) == [Armor(MOST_BLOCK)]
    assert Armor.sized(37, 41, 0.6) == Armor.sized(384, 30, 0.9) == []
    assert Armor(16).params(384, 384) == 384 * 384 // 2 + 2 * 16 * 384


def test_what_a_matrix_cannot_be() -> None:
    assert Armor(4).check(8, 12) is None
    assert Armor(4).check(10, 12) == Refused("10 rows (outputs) are no multiple of 4, armor:4 needs that")
    assert Armor(4).check(8, 14) == Refused("14 columns (inputs) are no multiple of 4, armor:4 needs that")
    assert Armor(3).check(9, 6) == Refused("6 columns (inputs) are no multiple of 4, 2:4 needs that")


@pytest.mark.parametrize("key", ["armor", "armor:0", "armor:04", "armor:4:2"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(RecipeError, match=f"structure '{key}' is not one that sparsecc writes"):
        structures.from_key(key)
