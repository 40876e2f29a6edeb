"""Operators of the vocabulary on their way from torch: each is one placeholder that holds what its site does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.attention.base import Grid
from sparsecc.codegen.importers.base import Placeholder
from sparsecc.codegen.importers.fx.importer import import_fx
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear
from sparsecc.structures.base import Structured
from tests.codegen.whole import block_map, fixed, random, reordered, structured


def placeholders(graph: FxGraph, *inputs: Tensor) -> list[Placeholder]:
    return list(import_fx(graph.specialize(inputs)).placeholders.values())


@pytest.mark.parametrize("key", ["low_rank:3", "monarch:2x4:2"])
def test_structured_weights(key: str) -> None:
    first, x = nn.Linear(12, 20), random(2, 5, 12)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(20, 16, bias=False))
    graph = structured(fixed(model, x), key)
    found = placeholders(graph, x)
    assert [(p.kind, p.name) for p in found] == [("linear", "0"), ("linear", "2")]
    for placeholder, site in zip(found, graph.sites(Linear), strict=True):
        assert isinstance(placeholder.stored, Structured) and site.form is not None
        assert placeholder.stored.structure.key == key
        assert torch.equal(placeholder.stored.dense(), site.form.dense())
    bias, none = (placeholder.bias for placeholder in found)
    assert bias is not None and torch.equal(torch.from_numpy(bias), first.bias)
    assert none is None


@pytest.mark.parametrize("grid", [Grid(2, 3, 4), Grid(2, 3, 4, 5), Grid(2, 3, 4, 5, text_first=False)], ids=str)
@pytest.mark.parametrize("curves", [False, True])
def test_block_attention(grid: Grid, curves: bool) -> None:
    inputs = [random(2, 6, grid.tokens, 8, seed=seed) for seed in range(3)]
    blocks = block_map(grid, 6, 4, 0.4, curves)
    dense = fixed(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, scale=0.25), *inputs)
    [placeholder] = placeholders(reordered(dense, blocks), *inputs)
    assert (placeholder.kind, placeholder.attributes["scale"]) == ("block_attention", 0.25)
    found = placeholder.attributes["map"]
    assert (found.grid, found.block) == (grid, 4)
    assert blocks.orders is not None and torch.equal(found.orders, blocks.orders)
    assert torch.equal(found.keep, blocks.keep)
