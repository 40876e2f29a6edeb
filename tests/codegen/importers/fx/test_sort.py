"""Sorting against torch, all in one build."""

from __future__ import annotations

import torch

from tests.codegen.whole import Case, against_torch, random

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


test_against_torch = against_torch(CASES)
