"""dynamic_block_attention against attention with a mask of tokens, its gradients, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.attention.base import Grid, required
from sparsecc.attention.dynamic import DynamicMap, Margin, Pooled, Principal, Rule
from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention, reference
from tests.tolerance import assert_close

GRID, BLOCK, HEADS, DIM = Grid.line(27, 3), 4, 4, 6
RULES: dict[str, Rule] = {
    "pooled": Pooled(3),
    "principal": Principal(3, torch.linalg.qr(torch.randn(2, DIM, 2, generator=torch.Generator().manual_seed(1))).Q),
    "margin": Margin(torch.full((HEADS,), -0.1)),
}
every_rule = pytest.mark.parametrize("rule", RULES)
every_order = pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])


def map_of(rule: str, causal: bool = False, refresh: int = 0) -> DynamicMap:
    needed = required(GRID, BLOCK, causal).repeat(HEADS, 1, 1)
    return DynamicMap(GRID, BLOCK, needed, RULES[rule], 0.5, causal, refresh)


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, count, GRID.tokens, DIM, generator=generator).to(dtype) for count in (HEADS, 2, 2)]


def masked(q: Tensor, k: Tensor, v: Tensor, found: DynamicMap) -> Tensor:
    keep = found.select(q, k, 0.3).repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[:, :, : GRID.tokens, : GRID.tokens]
    keep = keep.tril() if found.causal else keep
    k, v = (x.repeat_interleave(HEADS // 2, 1) for x in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, keep, scale=0.3)


class Attending(nn.Module):
    def __init__(self, found: DynamicMap) -> None:
        super().__init__()
        self.operator = DynamicBlockAttention(found, 0.3)
        for name, tensor in self.operator.tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        call = self.operator.torch_call("attn")
        arguments = self.operator.torch_arguments((q, k, v), list(self.buffers()), None)
        y = call.target(*arguments, *call.options)
        if self.operator.counter is not None:
            counter = self.get_buffer(self.operator.counter)
            counter.copy_(counter + 1)
        return y


@every_order
@every_rule
def test_it_is_attention_with_a_mask_of_what_was_chosen(rule: str, causal: bool) -> None:
    found = map_of(rule, causal)
    q, k, v = inputs()
    y = Attending(found)(q, k, v)
    assert_close(y.contiguous(), masked(q, k, v, found))
    assert y.transpose(1, 2).is_contiguous()
    assert torch.equal(y, DynamicBlockAttention(found, 0.3).reference(q, k, v))
    assert 0 < found.select(q, k, 0.3).float().mean() < 0.9


@every_rule
def test_half_precision(rule: str) -> None:
    q, k, v = inputs(torch.bfloat16)
    y = Attending(map_of(rule))(q, k, v)
    assert y.dtype is torch.bfloat16
    assert (y.float() - masked(q, k, v, map_of(rule)).float()).abs().max() < 0.03


@every_order
@every_rule
def test_gradients_are_those_of_the_mask(rule: str, causal: bool) -> None:
    found = map_of(rule, causal)
    given = [x.double().requires_grad_() for x in inputs()]
    weights = torch.randn(2, HEADS, GRID.tokens, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ours = torch.autograd.grad((Attending(found)(*given) * weights).sum(), given)
    q, k, v = given
    theirs = torch.autograd.grad((masked(q, k, v, found) * weights).sum(), given)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("refresh", [0, 2])
@every_rule
def test_torch_takes_it_for_an_operator(rule: str, refresh: int) -> None:
    module = Attending(map_of(rule, refresh=refresh))
    call = module.operator.torch_call("attn")
    given = [x.requires_grad_() for x in inputs()]
    arguments = module.operator.torch_arguments(given, list(module.buffers()), None)
    torch.library.opcheck(
        call.target, (*arguments, *call.options), test_utils=("test_schema", "test_faketensor", "test_autograd_registration")
    )


@every_rule
def test_an_exported_program_runs(rule: str, tmp_path: Any) -> None:
    module, given = Attending(map_of(rule)), tuple(inputs())
    torch.export.save(torch.export.export(module, given), tmp_path / "m.pt2")
    assert torch.equal(torch.export.load(tmp_path / "m.pt2").module()(*given), module(*given))


@every_order
@every_rule
def test_every_third_call_is_dense_and_the_others_are_what_they_are_without_refresh(rule: str, causal: bool) -> None:
    module, plain, given = Attending(map_of(rule, causal, refresh=3)), Attending(map_of(rule, causal)), inputs()
    q, k, v = given
    every = torch.ones(GRID.tokens, GRID.tokens, dtype=torch.bool)
    k, v = (x.repeat_interleave(HEADS // 2, 1) for x in (k, v))
    dense = functional.scaled_dot_product_attention(q, k, v, every.tril() if causal else every, scale=0.3)
    found = [module(*given) for _ in range(7)]
    for call, y in enumerate(found):
        if call % 3:
            assert torch.equal(y, plain(*given))
        else:
            assert_close(y.contiguous(), dense)
    assert not torch.equal(found[0], found[1]) and module.get_buffer("calls").item() == 7


@every_rule
def test_gradients_are_those_of_the_call_though_the_counter_went_on(rule: str) -> None:
    module = Attending(map_of(rule, refresh=2))
    given = [x.double().requires_grad_() for x in inputs()]
    q, k, v = given
    dense = functional.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True)
    weights = torch.randn(dense.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for expected in (dense, masked(q, k, v, map_of(rule))):
        ours = torch.autograd.grad((module(*given) * weights).sum(), given)
        for one, other in zip(ours, torch.autograd.grad((expected * weights).sum(), given), strict=True):
            torch.testing.assert_close(one, other)


@every_rule
def test_an_exported_program_counts_on(rule: str, tmp_path: Any) -> None:
    module, given = Attending(map_of(rule, refresh=3)), tuple(inputs())
    expected = [module(*given) for _ in range(4)][1:]
    module.get_buffer("calls").fill_(1)
    torch.export.save(torch.export.export(module, given), tmp_path / "m.pt2")
    loaded = torch.export.load(tmp_path / "m.pt2").module()
    assert all(torch.equal(loaded(*given), y) for y in expected)


def test_other_sizes_are_refused() -> None:
    q, k, v = inputs()
    module = Attending(map_of("pooled"))
    with pytest.raises(RuntimeError, match="'attn' has a block map for 27 tokens, it is given 26"):
        module(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:])
    with pytest.raises(RuntimeError, match="'attn' has 4 heads, its input 2"):
        module(q[:, 2:], k, v)


def test_what_enters_decides_what_is_computed() -> None:
    found = map_of("pooled")
    q, k, _ = inputs()
    assert not torch.equal(found.select(q, k, 0.3), found.select(-q, k, 0.3))
    assert not torch.equal(*found.select(q, k, 0.3))
    far = torch.zeros_like(k)
    far[:, :, 24:] = 5.0
    assert found.select(q.abs(), far, 0.3)[:, :, :, -1].all()
    assert torch.equal(reference(q, k, torch.ones_like(k), found, 0.3).round(decimals=4), torch.ones_like(q))
