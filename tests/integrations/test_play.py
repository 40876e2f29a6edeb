"""Maps played: each way against the operator's meaning. What a GPU alone runs is run on the CPU, by what stands for it there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparsecc.attention.base import BlockMap, Grid, required
from sparsecc.codegen.cuda import operator
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.plan import Plan, Step
from sparsecc.errors import InputError, Refused
from sparsecc.integrations import play
from sparsecc.integrations.play import Player
from sparsecc.ops.block_attention.torch import reference

GRID = Grid(3, 4, 16, 8, text_first=False)
TOKENS, SCALE = GRID.tokens, 0.3


def some_map(ordered: bool = True, causal: bool = False, block: int = 64) -> BlockMap:
    generator = torch.Generator().manual_seed(0)
    blocks = GRID.blocks(block)
    keep = (torch.rand(2, blocks, blocks, generator=generator) < 0.3) | required(GRID, block)
    grid = Grid.line(TOKENS) if causal else GRID
    return BlockMap(grid, block, torch.tensor([2, 4]).byte() if ordered else None, keep.tril() if causal else keep, causal)


def inputs(depth: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, TOKENS, depth, generator=generator).to(dtype) for _ in range(3))
    return q, k, v


def padding() -> Tensor:
    """The last text tokens of the second sequence are hidden."""
    mask = torch.ones(2, 1, 1, TOKENS, dtype=torch.bool)
    mask[1, ..., -5:] = False
    return mask


@pytest.mark.parametrize("mask", [None, padding()])
def test_on_a_cpu_by_the_operator(mask: Tensor | None) -> None:
    player, given = Player("a", some_map()), inputs()
    assert torch.equal(player(*given, SCALE, mask), reference(*given, some_map(), SCALE, mask))
    assert player.runs == "torch, block by block"
    causal = some_map(ordered=False, causal=True)
    assert torch.equal(Player("a", causal)(*given, SCALE, causal=True), reference(*given, causal, SCALE))


def test_by_flex_attention_which_is_compiled_once_for_maps_of_a_size() -> None:
    torch.compiler.reset()
    counted = torch._dynamo.utils.counters["stats"]
    before, (q, k, v), found = counted["unique_graphs"], inputs(), some_map()
    for _ in range(3):
        y = Player("a", found)._flex(q, k, v, SCALE, None)
        assert (y - reference(q, k, v, found, SCALE)).abs().max() < 1e-5
    assert counted["unique_graphs"] == before + 1


def test_by_flex_attention_with_hidden_keys() -> None:
    torch.compiler.reset()
    (q, k, v), found = inputs(), some_map()
    expected = reference(q, k, v, found, SCALE, padding())
    assert (Player("a", found)._flex(q, k, v, SCALE, padding()) - expected).abs().max() < 1e-5
    assert (expected - reference(q, k, v, found, SCALE)).abs().max() > 1e-3


@pytest.mark.parametrize("mask", [None, padding()])
def test_by_the_kernel(mask: Tensor | None) -> None:
    """Its operator computes its meaning here."""
    found, given = some_map(), inputs(64, torch.float16)
    spec = BlockAttentionSpec(2, 2, 2, TOKENS, 64, SCALE, 64, "float16", ordered=True, masked=mask is not None)
    key = operator.register(Plan(spec, {}, (Step(TOKENS, "block_attention", "", {}),), {}))
    y = Player("a", found)._launched(key, *given, mask)
    q, k, v = (x.float() for x in given)
    assert (y.float() - reference(q, k, v, found, SCALE, mask)).abs().max() < 2e-3


@pytest.mark.parametrize(
    ("capability", "depth", "reason"),
    [
        ((9, 0), 80, "no kernel takes block attention 2/2 heads of 80 on 200 on a GPU"),
        ((8, 0), 64, "no kernel takes block attention 2/2 heads of 64 on 200 on a GPU"),
        ((7, 5), 64, "there are no kernels for sm_75"),
    ],
)
def test_sizes_and_gpus_without_a_kernel(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], depth: int, reason: str) -> None:
    monkeypatch.setattr(play, "capability", lambda: capability)
    monkeypatch.setattr(play, "device_name", lambda: "a GPU")
    spec = BlockAttentionSpec(1, 2, 2, TOKENS, depth, SCALE, 64, ordered=True)
    assert play._plan_of.__wrapped__(spec, 0) == Refused(reason)


def test_what_the_kernel_does_not_take() -> None:
    q, k, v = inputs()
    assert Player("a", some_map())._kernel(q, k, v, SCALE, False) == Refused("the kernel takes bfloat16 and float16, not float32")


def test_masks_that_a_gpu_does_not_play() -> None:
    player = Player("a", some_map())
    assert player._seen(None, 2) is None and player._seen(torch.ones(2, 1, 1, TOKENS, dtype=torch.bool), 2) is None
    hidden = player._seen(padding(), 2)
    assert hidden is not None and torch.equal(hidden, padding())
    for mask in (torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool), torch.zeros(2, 1, 1, TOKENS)):
        with pytest.raises(InputError, match=r"attention 'a': its mask is .*; on a GPU only bool \[batch, 1, 1, tokens\] is played"):
            player._seen(mask, 2)


def test_a_new_mask_is_asked_anew() -> None:
    for hidden in (0, 5, 0, 5):
        mask = torch.ones(1, 1, 1, 10, dtype=torch.bool)
        mask[..., :hidden] = False
        assert play._all_seen(mask) == (hidden == 0)
        del mask


def test_calls_that_are_not_the_plans() -> None:
    player, (q, k, v) = Player("a", some_map()), inputs()
    with pytest.raises(InputError, match=r"the plan is for 200 tokens \(3×4×16 and 8 text tokens after\), this call has 199"):
        player(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], SCALE)
    with pytest.raises(InputError, match="'a' has 1 heads, the plan 2"):
        player(q[:, :1], k[:, :1], v[:, :1], SCALE)
    with pytest.raises(InputError, match="'a' is causal, the plan's is not"):
        player(q, k, v, SCALE, causal=True)
