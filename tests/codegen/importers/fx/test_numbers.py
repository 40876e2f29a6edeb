"""Result types by torch's rules against torch, all in one build."""

from __future__ import annotations

import math

import torch

from tests.codegen.whole import Case, against_torch, random

NUMBERS = torch.tensor([[3, -2, 0, 7], [1, 1, -5, 2]])
SMALL = NUMBERS.int()

CASES: dict[str, Case] = {
    "sums of integers": (lambda x: (x.cumsum(1), x.cumprod(0), x.sum(1), x.sum(), x.prod(1), x.prod()), (SMALL,)),
    "sums of flags": (lambda x: ((x > 0).cumsum(-1), (x > 0).sum(0, keepdim=True), (x > 0).sum()), (SMALL,)),
    "sums in another type": (
        lambda x: (x.sum(1, dtype=torch.float32), x.cumsum(0, dtype=torch.float32), x.mean(1, dtype=torch.float32)),
        (SMALL,),
    ),
    "means": (lambda x: (x.mean(), x.mean((0, -1)), x.mean(1, keepdim=True)), (random(3, 4),)),
    "integers between numbers": (lambda x: (x.clamp(0, 2), x.clamp(min=1), x.clamp_max(1)), (NUMBERS,)),
    "integers above 2**32": (lambda x: (x + 2**40).clamp(max=2**40 + 1), (NUMBERS,)),
    "integers between fractions": (lambda x: x.clamp(-0.5, 2.5), (SMALL,)),
    "between tensors": (lambda x, low: (x.clamp(low, low + 1), torch.clamp(x, max=low)), (random(3, 4), random(4))),
    "floats between numbers": (lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0.1)), (random(3, 4),)),
    "rounded division": (
        lambda x: (x // 3, torch.div(x, -2, rounding_mode="trunc"), torch.div(x, x.abs() + 1, rounding_mode="floor")),
        (NUMBERS,),
    ),
    "floats between limits that cross": (lambda x: (x.clamp(0.5, -0.5), x.clamp(x + 1, x - 1)), (random(3, 4),)),
    "rounded division of floats": (lambda x: (torch.div(x, 0.3, rounding_mode="trunc"), x // 0.3), (random(3, 4),)),
    "floors of exact multiples": (
        lambda x, y: (torch.div(x, 0.1, rounding_mode="floor"), torch.div(x, -y, rounding_mode="floor"), x // y, 2 // y),
        (torch.tensor([1, 0.3, -0.3, 2.5, 0.6, -1.5, 0, 7e20]), torch.tensor([0.1, 0.1, 0.1, -0.1, 0.2, math.inf, 0.3, 0.7])),
    ),
    "floors by zero and infinity": (
        lambda x, y: (x // y).clamp(-9, 9),
        (torch.tensor([1.0, -1, -1, 1]), torch.tensor([0, 0, math.inf, -math.inf])),
    ),
    "remainders": (lambda x: (x % 3, x % -3, (x * 1e5) % 6.2831853, (x * 1e5) % -6.2831853, 2 % x), (random(3, 4),)),
    "remainders of integers": (lambda x: (x % 3, torch.remainder(x, -3), x % (x.abs() + 1)), (NUMBERS,)),
    "shifts": (
        lambda x, by: (x << 2, x >> 1, x << by, x >> by, torch.bitwise_right_shift(x.to(torch.uint8), by.to(torch.uint8)), x.int() >> 3),
        (NUMBERS, torch.tensor([0, 3, 64, -1])),
    ),
    "any": (lambda x: (x.any(-1), (x > 1).any(0, keepdim=True), (x > 9).any((0, 1)), x.int().any(0), x.any()), (random(3, 4),)),
    "filled": (
        lambda x: (
            x + torch.ones_like(x),
            torch.zeros_like(x, dtype=torch.bool) | (x > 0),
            torch.full_like(x, 2, dtype=torch.int32) + x.int(),
        ),
        (random(3, 4),),
    ),
}


test_against_torch = against_torch(CASES)
