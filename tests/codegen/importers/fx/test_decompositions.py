"""Operators taken apart against torch, all in one build."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsecc.codegen.importers.fx.decompositions import DECOMPOSITIONS
from tests.codegen.whole import Case, against_torch, random

TABLE = random(10, 4)
BAGS = torch.tensor([[1, 2, 9], [0, 1, 1]])
OFFSETS = torch.tensor([0, 2, 2])
IMAGE = random(2, 3, 7, 8)

CASES: dict[str, Case] = {
    **{
        f"embedding_bag, {mode}": (
            lambda table, bags, offsets, mode=mode: (
                functional.embedding_bag(bags, table, mode=mode),
                functional.embedding_bag(bags.flatten(), table, offsets, mode=mode),
                functional.embedding_bag(bags, table, mode=mode, padding_idx=1),
            ),
            (TABLE, BAGS, OFFSETS),
        )
        for mode in ("sum", "mean", "max")
    },
    "embedding_bag, weighted": (
        lambda table, bags, shares: functional.embedding_bag(bags, table, mode="sum", per_sample_weights=shares),
        (TABLE, BAGS, random(2, 3)),
    ),
    "embedding_bag, last offset": (
        lambda table, bags, offsets: functional.embedding_bag(bags.flatten(), table, offsets, mode="sum", include_last_offset=True),
        (TABLE, BAGS, torch.tensor([0, 4, 6])),
    ),
    "embedding_bag, more indices behind the last offset": (
        lambda table, bags, offsets: functional.embedding_bag(bags.flatten(), table, offsets, mode="sum", include_last_offset=True),
        (TABLE, BAGS, torch.tensor([0, 1, 3])),
    ),
    "unfold": (lambda x: (x.unfold(2, 3, 2), x.unfold(-1, 2, 2).unfold(2, 2, 1)), (IMAGE,)),
    "adaptive max pooling": (nn.AdaptiveMaxPool2d((2, 3), return_indices=True), (IMAGE,)),
    "adaptive max pooling of equals": (nn.AdaptiveMaxPool2d((3, 4), return_indices=True), (IMAGE.round(),)),
    "adaptive max pooling of one and three axes": (
        lambda x: (functional.adaptive_max_pool1d(x[0], 3), functional.adaptive_max_pool3d(x, (2, 1, 2))),
        (IMAGE,),
    ),
    "searchsorted": (
        lambda x, at: (torch.searchsorted(at, x), torch.searchsorted(at, x, right=True)),
        (random(3, 4), torch.tensor([-1.0, 0, 1])),
    ),
    "cdist": (lambda x, y: (torch.cdist(x, y), torch.cdist(x, y, p=1), torch.cdist(x, y, p=3)), (random(2, 5, 3), random(2, 4, 3, seed=1))),
    "scatter from a mask": (
        lambda x, mask, given: (x.masked_scatter(mask, given), x.masked_scatter(mask[:, :1], given)),
        (random(3, 4), torch.tensor([[True, False, True, True], [False] * 4, [True] * 4]), random(2, 6)),
    ),
    "reduced at indices": (
        lambda x, i, y: (
            x.index_reduce(1, i, y, "amax"),
            x.index_reduce(1, i, y, "prod", include_self=False),
            x.scatter(1, i.expand(3, 2), y, reduce="add"),
            x.scatter(1, i.expand(3, 2), 2.0, reduce="multiply"),
        ),
        (random(3, 4), torch.tensor([1, 3]), random(3, 2)),
    ),
    "take": (lambda x, i: (x.take(i), x.take(-1 - i)), (TABLE, BAGS)),
    "recurrent layers": (nn.GRU(4, 3, bidirectional=True), (random(5, 2, 4),)),
}


test_against_torch = against_torch(CASES)


@pytest.mark.parametrize("bins", [1, 4])
def test_histograms_are_torchs(bins: int) -> None:
    histogram = DECOMPOSITIONS[torch.ops.aten.histc.default]
    for x in (random(50), torch.arange(6.0), torch.full((3,), 2.0)):
        for least, most in ((0, 0), (0, 3), (-1.5, 0.5), (2, 2)):
            assert torch.equal(histogram(x, bins, least, most), torch.histc(x, bins, least, most)), (least, most)
