"""Writes at indices against torch, all in one build."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.codegen.whole import Case, against_torch, random

X = random(4, 6, 5)
PLACES = torch.tensor([3, -1])
ROWS = torch.tensor([[1, 0, 1], [3, 3, 0]])


def assigned(key: str) -> Case:
    """x[key] = values, by an expression of x, i and values."""
    values = {"x[i]": random(2, 6, 5), "x[:, i]": random(4, 2, 5), "x[:, :, i]": random(5 - 3), "x[i, :, i + 1]": random(2, 6)}[key]

    def assign(x: Tensor, i: Tensor, given: Tensor) -> Tensor:
        x = x.clone()
        exec(f"{key} = given", {"x": x, "i": i, "given": given})
        return x

    return assign, (X, PLACES, values)


def masked(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0
    x[:, 1] = 3.0
    x[x[:, 0, 0] > 0] = torch.ones(5)
    return x


CASES: dict[str, Case] = {
    **{key: assigned(key) for key in ("x[i]", "x[:, i]", "x[:, :, i]", "x[i, :, i + 1]")},
    "masks": (masked, (X,)),
    "index_copy": (lambda x, i, new: x.index_copy(1, i, new), (X, torch.tensor([2]), random(4, 1, 5))),
    "index_add, twice at one place": (lambda x, i, rows: x.index_add(0, i, rows, alpha=2), (X, torch.tensor([1, 1]), random(2, 6, 5))),
    "index_fill": (lambda x, i: x.index_fill(2, i, 1.5), (X, torch.tensor([0, 3]))),
    "index_put, added": (lambda x, i, rows: x.index_put((i,), rows, accumulate=True), (X, PLACES * 0 + 2, random(2, 6, 5))),
    "scatter": (lambda x, i, rows: x.scatter(0, i, rows), (random(4, 6), torch.tensor([[0, 2], [1, 3]]), random(4, 4))),
    "scatter a number": (lambda x, i: x.scatter(-1, i, 2.0), (random(4, 6), ROWS)),
    "scatter_add": (lambda x, i, rows: x.scatter_add(1, i, rows), (random(4, 6), ROWS, random(2, 3))),
    **{
        f"scatter_reduce, {reduce}, {own}": (
            lambda x, i, rows, reduce=reduce, own=own: x.scatter_reduce(1, i, rows, reduce, include_self=own),
            (random(4, 6), ROWS, random(2, 3)),
        )
        for reduce in ("sum", "prod", "mean", "amax", "amin")
        for own in (True, False)
    },
}


test_against_torch = against_torch(CASES)
