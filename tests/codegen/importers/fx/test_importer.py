"""Attention, folded constants and packed weights on their way from torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from sparsecc.codegen.importers.base import Imported
from sparsecc.codegen.importers.fx.importer import import_fx
from sparsecc.formats.base import Packed
from tests.codegen.whole import Case, as_module, compare, fixed, packed, random
from tests.tolerance import assert_close

# As many keys as a vector has lanes, and shapes in common: such kernels compile fast, and only once.
Q, K, V = random(2, 2, 12, 4), random(2, 2, 16, 4), random(2, 2, 16, 4, seed=1)
SQUARE = random(2, 2, 16, 4)
SEEN = torch.rand(2, 1, 12, 16, generator=torch.Generator().manual_seed(0)) > 0.4
NONE_FOR_ONE = SEEN.clone()
NONE_FOR_ONE[1, :, 3] = False
CAUSAL = torch.ones(16, 16, dtype=torch.bool).tril()

ATTENTION: dict[str, Case] = {
    "plain": (lambda q, k, v: attend(q, k, v), (Q, K, V)),
    "scaled": (lambda q, k, v: attend(q, k, v, scale=0.0), (Q, K, V)),
    "causal": (lambda q: attend(q, q, q, is_causal=True), (SQUARE,)),
    "causal, more keys": (lambda q, k, v: attend(q, k, v, is_causal=True), (Q, K, V)),
    "mask of queries and keys": (lambda q, k, v, m: attend(q, k, v, m), (Q, K, V, SEEN)),
    "mask of keys": (lambda q, k, v, m: attend(q, k, v, m[:, None, None]), (Q, K, V, SEEN[:, 0, 0])),
    "mask of two axes": (lambda q, k, v, m: attend(q, k, v, m), (Q, K, V, SEEN[0, 0])),
    "mask of each head": (lambda q, k, v, m: attend(q, k, v, m), (Q, K, V, random(2, 12, 16))),
    "mask that leaves a query without keys": (lambda q, k, v, m: attend(q, k, v, m), (Q, K, V, NONE_FOR_ONE)),
    "mask that is added": (lambda q, k, v, m: attend(q, k, v, m), (Q, K, V, random(2, 1, 12, 16))),
    "mask that is added to all keys alike": (lambda q, k, v, m: attend(q, k, v, m), (Q, K, V, random(2, 1, 12, 1))),
    "constant mask, all seen": (lambda q, k, v: attend(q, k, v, torch.ones(12, 16, dtype=torch.bool)), (Q, K, V)),
    "constant mask, causal": (lambda q: attend(q, q, q, CAUSAL), (SQUARE,)),
    "constant mask, nearly causal": (lambda q, k, v: attend(q, k, v, CAUSAL[2:-2]), (Q, K, V)),
    "grouped heads": (lambda q, k, v: attend(q, k, v, enable_gqa=True), (torch.cat([Q, Q], 1), K, V)),
    "one key head for all": (lambda q, k, v: attend(q, k, v), (Q, K[:, :1], V[:, :1])),
    "one query head for all": (lambda q, k, v: attend(q, k, v), (Q[:, :1], K, V)),
    "keys of one batch item": (lambda q, k, v: attend(q, k, v), (Q, K[:1], V[:1])),
    "queries of one batch item": (lambda q, k, v: attend(q, k, v), (Q[:1], K, V)),
    "three axes": (lambda q, k, v: attend(q, k, v), (Q[0], K[0], V[0])),
    "two axes": (lambda q, k, v, m: attend(q, k, v, m), (Q[0, 0], K[0, 0], V[0, 0], SEEN[0, 0])),
    "five axes": (lambda q, k, v: attend(q, k, v), (Q[:, None], K[:, None], V[:, None])),
    "five axes, mask of four": (lambda q, k, v, m: attend(q, k, v, m), (Q[:, None], K[:, None], V[:, None], SEEN[:1])),
}


@cache
def attended() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(ATTENTION)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name: str) -> None:
    for compiled, oracle in attended()[name]:
        assert_close(compiled, oracle)


def imported(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> Imported:
    return import_fx(torch.export.export(as_module(module), inputs, strict=False))


def operators(found: Imported) -> list[str]:
    names = [
        str(getattr(binding.value.op, "name", ""))
        for block in found.module["main"].body.blocks
        for binding in block.bindings
        if hasattr(binding.value, "op")
    ]
    return [name.removeprefix("relax.") for name in names]


def test_attention_is_one_placeholder() -> None:
    found = imported(lambda q, k, v: attend(q, k, v, is_causal=True, scale=0.25), Q, K, V)
    [placeholder] = found.placeholders.values()
    assert (placeholder.kind, dict(placeholder.attributes)) == ("attention", {"scale": 0.25, "causal": True})


@pytest.mark.parametrize(("mask", "causal"), [(torch.ones(16, 16), False), (torch.ones(16, 16).tril(), True)])
def test_a_constant_mask_that_says_little_goes(mask: Tensor, causal: bool) -> None:
    found = imported(lambda q: attend(q, q, q, mask.bool()), SQUARE)
    [placeholder] = found.placeholders.values()
    assert placeholder.attributes["causal"] == causal
    assert placeholder.attributes["scale"] == 0.5
    assert operators(found) == ["call_dps_packed"]


def test_what_depends_on_no_input_is_computed_once() -> None:
    """Positions, rotations and masks; random numbers and what an input takes part in are not."""

    def rotated(x: Tensor) -> Tensor:
        angle = torch.arange(6.0)[:, None] / 10 ** (torch.arange(5) / 5)
        return x * angle.cos() + angle.sin()

    found = imported(rotated, random(2, 6, 5))
    assert operators(found) == ["multiply", "add"]


def test_large_results_are_not_folded() -> None:
    found = imported(lambda x: x + torch.arange(3 << 20), torch.arange(1))
    assert "arange" in operators(found)


CONSTANTS: dict[str, Case] = {
    "used twice": (lambda x: (lambda c: (x + c, x * c.exp()))(torch.arange(5.0)), (random(3, 5),)),
    "returned": (lambda x: (x + 1, torch.arange(5)), (random(3, 5),)),
    "of integers": (lambda x: x[torch.arange(3).flip(0)], (random(3, 5),)),
    "not contiguous": (lambda x: x + torch.arange(15.0).reshape(5, 3).T, (random(3, 5),)),
    "beside an assertion": (lambda x: x + 1 if x.shape[0] == 3 else x, (random(3, 5),)),
}


@cache
def with_constants() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(CONSTANTS)


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(name: str) -> None:
    for compiled, oracle in with_constants()[name]:
        assert_close(compiled, oracle)


def test_packed_weights_are_placeholders_with_their_sites() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 16, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), nn.Flatten(2), nn.Linear(20, 32, bias=False)
    )
    graph = packed(fixed(model, random(1, 8, 7, 7)), "4x1", 0.75)
    conv, linear = import_fx(graph.specialize([random(1, 8, 7, 7)])).placeholders.values()
    assert [(p.kind, p.name, isinstance(p.stored, Packed) and p.stored.format.key) for p in (conv, linear)] == [
        ("conv2d", "0", "block:4x1"),
        ("linear", "2", "block:4x1"),
    ]
    geometry = {name: conv.attributes[name] for name in ("kernel", "stride", "padding", "dilation")}
    assert geometry == {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0, 1, 0), "dilation": (1, 2)}
    assert conv.bias is not None
    assert linear.bias is None
