"""Mixtures of experts against torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.integrations import moe as _  # noqa: F401  its operator

from sparsecc.codegen.importers.fx.grouped import GROUPED
from sparsecc.codegen.importers.fx.operators import check_supported
from tests.codegen.whole import Case, against_torch, random


class Experts(nn.Module):
    """Tokens sorted by expert, two products, back in order: what transformers' mixtures do. Some experts get no token."""

    def __init__(self, experts: int, hidden: int, inner: int, top: int) -> None:
        super().__init__()
        self.router, self.experts, self.top = nn.Linear(hidden, experts), experts, top
        self.up = nn.Parameter(random(experts, inner, hidden) * 0.2)
        self.down = nn.Parameter(random(experts, hidden, inner) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        share, chosen = self.router(x).softmax(-1).topk(self.top)
        expert, order = chosen.reshape(-1).sort()
        ends = torch.histc(expert.float(), self.experts, min=0, max=self.experts - 1).cumsum(0, dtype=torch.int32)
        y = torch.ops.transformers.grouped_mm_fallback(x[order // self.top], self.up.transpose(1, 2), ends).relu()
        y = torch.ops.transformers.grouped_mm_fallback(y, self.down.transpose(1, 2), ends) * share.reshape(-1)[order].unsqueeze(1)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return y[back].view(len(x), self.top, -1).sum(1)


def product(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return torch.ops.transformers.grouped_mm_fallback(x, weight, ends)


CASES: dict[str, Case] = {
    "tokens by a router": (Experts(6, 20, 27, 2), (random(8, 20),)),
    "groups of four and their ends": (product, (random(12, 5), random(3, 5, 40), torch.tensor([5, 5, 12]))),
    "rows behind the last end are zero": (product, (random(9, 5), random(3, 5, 3), torch.tensor([1, 3, 6]))),
}


test_against_torch = against_torch(CASES)


def test_torchs_own_operator_is_known() -> None:
    class Bfloat16(nn.Module):
        def forward(self, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
            return nn.functional.grouped_mm(x, weight, offs=ends)

    given = (random(8, 16).bfloat16(), random(2, 16, 8).bfloat16(), torch.tensor([3, 8], dtype=torch.int32))
    check_supported(torch.export.export(Bfloat16(), given, strict=False).graph, GROUPED)
