"""Sorting against torch, all in one build."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.codegen.whole import Case, compare, random
from tests.tolerance import assert_close

X = random(3, 8)
TIES = torch.arange(40).remainder(3).reshape(2, 20)

CASES: dict[str, Case] = {
    "sort": (lambda x: (*x.sort(1), *x.sort(0, descending=True)), (X,)),
    "equal elements stay in order": (
        lambda x: (*torch.sort(x, dim=1, stable=True), *torch.sort(x, dim=-1, stable=True, descending=True)),
        (TIES,),
    ),
    "argsort": (lambda x, ties: (x.argsort(-1), torch.argsort(ties, dim=1, stable=True)), (X, TIES)),
    "topk": (lambda x: (*x.topk(3), *x.topk(2, dim=0, largest=False), x.topk(4, sorted=False)[0].sum(-1)), (X,)),
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(CASES)


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    for compiled, oracle in results()[name]:
        assert compiled.dtype == oracle.dtype
        assert_close(compiled, oracle)
