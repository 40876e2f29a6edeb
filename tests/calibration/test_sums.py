from __future__ import annotations

import pytest
import torch

from sparsecc.calibration.sums import Sums

NEEDS = ("inputs", "norms", "hessian", "means", "variances", "tokens")


def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsecc.calibration.sums._ROWS", 8)
    pieces = [torch.randn(rows, 5) for rows in (3, 0, 12, 7)]
    total, whole = Sums(NEEDS), Sums.of(pieces, NEEDS)
    for part in (pieces[:2], [], pieces[2:]):
        total.merge(Sums.of(part, NEEDS).tensors())
    assert int(total.stats()["tokens"]) == 22
    for name, found in whole.stats().items():
        torch.testing.assert_close(total.stats()[name], found)


def test_the_order_of_parts_decides_the_last_bits_and_nothing_else_does() -> None:
    parts = [Sums.of([torch.randn(9, 5, generator=torch.Generator().manual_seed(i))], NEEDS).tensors() for i in range(3)]
    first, again = Sums(NEEDS), Sums(NEEDS)
    for total in (first, again):
        for part in parts:
            total.merge({name: tensor.clone() for name, tensor in part.items()})
    assert all(torch.equal(found, again.stats()[name]) for name, found in first.stats().items())


def test_nothing_is_kept_but_what_is_needed() -> None:
    assert Sums.of([torch.randn(4, 5)], ("norms",)).tensors().keys() == {"tokens", "squares"}
    assert Sums.of([], NEEDS).stats() == {}
