"""Operators spelled in simpler ones against torch, all in one build."""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.codegen.whole import Case, against_torch, random

X = random(3, 5)
ZEROS = torch.tensor([0.0, -0.0, 1.5, -math.inf, math.inf, -2.0])

CASES: dict[str, Case] = {
    "functions": (lambda x: (torch.exp2(x), torch.erfc(x), torch.special.erfc(x), torch.exp2(x.int())), (X,)),
    "hypot": (lambda x, y: (torch.hypot(x, y), torch.hypot(x * 1e30, y * 1e30), torch.hypot(x * 0, y * 0)), (X, random(5))),
    "signs": (
        lambda x: (
            torch.signbit(x),
            torch.copysign(x.clamp(-9, 9) + 3, x),
            torch.copysign(x.clamp(-9, 9), -1.0),
            torch.signbit(x.clamp(-9, 9).int()),
        ),
        (ZEROS,),
    ),
    "variance and mean": (
        lambda x: (*torch.var_mean(x), *torch.var_mean(x, -1, correction=0), *torch.var_mean(x, (0, 1), keepdim=True)),
        (X,),
    ),
    "membership": (
        lambda x, among: (torch.isin(x, among), torch.isin(x, among, invert=True)),
        (torch.arange(12).view(3, 4), torch.tensor([2, 7])),
    ),
    "order": (lambda x: (*x.kthvalue(2, -1), *x.kthvalue(1, 0, keepdim=True)), (X,)),
    "running extremes": (lambda x: (*x.cummax(-1), *x.cummin(0), *x.round().cummax(1)), (X,)),
    "running sum of exponentials": (
        lambda x, y: (x.logcumsumexp(1), x.logcumsumexp(0), y.logcumsumexp(0).exp()),
        (X, torch.tensor([-math.inf, -math.inf, 2])),
    ),
    "sums of exponentials": (
        lambda x: tuple(
            y.clamp(-999, 999) for y in (torch.logaddexp(x, x * 0.9), torch.logaddexp2(x, x * 0.9), torch.logsumexp(torch.stack([x, x]), 0))
        ),
        (torch.tensor([100.0, 1, -200, 0, math.inf, -math.inf]),),
    ),
    "bilinear": (nn.Bilinear(5, 4, 6), (X, random(3, 4))),
}


test_against_torch = against_torch(CASES)
