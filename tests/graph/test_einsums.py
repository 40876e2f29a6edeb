"""Every linear einsum, put together again in numpy from what it is said to be."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.graph import einsums

SIZES = dict(zip("btdhk", (2, 5, 8, 3, 4), strict=True))
LINEAR = [
    "btd,dk->btk",
    "btd,kd->btk",
    "btd,dhk->bthk",
    "btd,hdk->bhtk",
    "bhtk,hkd->btd",
    "dk,btd->bkt",
    "...d,dk->...k",
    "td,dk",
    "bt d, dk -> bt k",
]


@pytest.mark.parametrize("equation", LINEAR)
def test_a_linear_einsum_is_a_product_between_views(equation: str) -> None:
    labels = equation.replace(" ", "").replace("...", "bt").partition("->")[0].split(",")
    operands = [np.random.default_rng(rank).standard_normal([SIZES[label] for label in term]) for rank, term in enumerate(labels)]
    weight = next(place for place, term in enumerate(labels) if "t" not in term)
    found = einsums.linear(equation, (operands[0].ndim, operands[1].ndim), weight)
    assert found is not None
    x, w = operands[1 - weight].transpose(found.turn_x), operands[weight].transpose(found.turn_weight)
    stays, kept = x.shape[: x.ndim - found.summed], w.shape[w.ndim - found.outputs :]
    product = x.reshape(*stays, -1) @ w.reshape(-1, int(np.prod(kept)))
    assert np.allclose(product.reshape(*stays, *kept).transpose(found.unturn), np.einsum(equation, *operands))


@pytest.mark.parametrize("equation", ["bte,bed->btd", "ett,td->ed", "btd,dk->bk", "btd,de->btde", "td,td->td", "td,dk,kh->th", "td,d->t"])
def test_others_are_none(equation: str) -> None:
    ranks = [len(term) for term in equation.partition("->")[0].split(",")]
    assert einsums.linear(equation, (ranks[0], ranks[1]), 1) is None
