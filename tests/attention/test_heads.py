from __future__ import annotations

import torch

from sparsecc.attention import heads
from sparsecc.attention.base import BlockMap, Choice, Grid, required

GRID = Grid(4, 2, 4)


def some_map(**changes) -> BlockMap:
    keep = torch.stack([required(GRID, 8), torch.ones(4, 4, dtype=torch.bool)])
    return BlockMap(**{"grid": GRID, "block": 8, "orders": torch.tensor([3, 0]).byte(), "keep": keep} | changes)


def test_each_head_has_a_line() -> None:
    assert heads.lines(some_map()) == ("head 0: density 0.25, order HWF", "head 1: dense")


def test_costs_stand_beside_it_also_of_a_head_that_was_put_back_to_dense() -> None:
    choice = Choice(some_map(), torch.tensor([0.012, 0.5]), torch.tensor([0.034, float("nan")]))
    assert heads.lines(some_map(), choice) == (
        "head 0: density 0.25, order HWF, lost mass 0.012, output error 0.034",
        "head 1: dense, lost mass 0.5, output error nan",
    )


def test_orders_that_are_no_axes() -> None:
    own = torch.stack([torch.arange(32).flip(0), torch.arange(32)]).int()
    assert heads.orders(some_map(orders=own)) == ["of its own", "of its own"]
    assert heads.orders(some_map(orders=None)) == ["of the model", "of the model"]
