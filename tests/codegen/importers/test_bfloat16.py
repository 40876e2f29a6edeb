from __future__ import annotations

import math

import torch

from tests.codegen.whole import compare, random

VALUES = torch.cat([random(64), torch.tensor([math.inf, -math.inf, 3e38, 1 + 2**-8, 1 + 3 * 2**-8, 0.0])])


def test_there_and_back_rounds() -> None:
    found = compare({"cast": (lambda x: (x.to(torch.bfloat16).float(), x.bfloat16().float() * 2), (VALUES,))})
    assert all(torch.equal(ours, oracle) for ours, oracle in found["cast"])
