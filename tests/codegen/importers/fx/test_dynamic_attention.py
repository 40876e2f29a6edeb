"""Attention whose blocks are chosen in each call, compiled: what is chosen and computed is what torch's operator chooses and computes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from sparsecc import attention
from sparsecc.attention.base import Asked, Grid, Sample
from sparsecc.attention.dynamic import DynamicMap
from sparsecc.codegen.backend import parse
from sparsecc.codegen.choose import Choice
from sparsecc.codegen.importers.fx.dynamic_attention import positions
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention
from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention
from tests.codegen.whole import HERE, Parallel, as_module, check, fixed, random

TOKENS, BLOCK, DIM = 45, 8, 8
CASES = [(pattern, causal, kv) for pattern in ("block_topk", "loki:4", "skip_softmax") for causal in (False, True) for kv in (4, 2)]


def attend(causal: bool, grouped: bool) -> object:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(4 * q, k, v, is_causal=causal, scale=0.3, enable_gqa=grouped)

    return function


@cache
def graph() -> tuple[FxGraph, list[Tensor]]:
    """All cases side by side."""
    inputs: list[Tensor] = []
    for seed, (_, _, kv) in enumerate(CASES):
        k, v = (random(2, kv, TOKENS, DIM, seed=2 * seed + side) for side in (0, 1))
        inputs += [k.repeat_interleave(4 // kv, 1) + 0.5 * random(2, 4, TOKENS, DIM, seed=seed), k, v]  # tokens look at themselves most
    modules = [as_module(attend(causal, kv == 2)) for _, causal, kv in CASES]  # type: ignore[arg-type]
    made = fixed(Parallel(modules, [3] * len(CASES)), *inputs)
    names = [site.name for site in made.sites(Attention)]
    taps = made.run(inputs, names).taps
    for site, (key, causal, _) in zip(made.sites(Attention), CASES, strict=True):
        want = Asked(Grid.line(TOKENS, 3), 4, site.scale, 0.8 if "skip" in key else 0.5, BLOCK, None, causal, [Sample(*taps[site.name])])
        made.replace(site, DynamicBlockAttention(attention.create(key).choose(want).map, site.scale))
    return made, inputs


def maps() -> list[DynamicMap]:
    found = [site.block_map for site in graph()[0].sites(Attention)]
    assert all(isinstance(one, DynamicMap) and one.density < 0.95 for one in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("target", ["reference", "here"])
def test_compiled_it_computes_what_torch_does(target: str) -> None:
    made, inputs = graph()
    assert len(maps()) == len(CASES)
    choices = check(made, inputs, HERE if target == "here" else parse("reference", 1))  # type: ignore[arg-type]
    if target == "here":
        said = [_said(choice) for choice in choices]
        listed, hidden = ("block_attention 8x8", "sparse"), ("attention", "dense")
        assert said == [hidden if "skip" in key else listed for key, _, _ in CASES]


def _said(choice: Choice) -> tuple[str, str]:
    return choice.kernel, choice.decision


def test_positions_are_the_first_of_each_row() -> None:
    found = next(one for one in maps() if one.causal and one.counts is not None)
    counts, blocks = found.counts, found.grid.blocks(BLOCK)
    assert counts is not None
    kept = torch.zeros(found.heads * blocks, blocks, dtype=torch.bool)
    kept.view(-1)[torch.from_numpy(positions(found))] = True
    assert torch.equal(kept.sum(1), counts.flatten())
    assert torch.equal(kept, kept.sort(dim=1, descending=True).values)
