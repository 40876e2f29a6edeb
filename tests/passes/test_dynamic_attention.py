"""`reorder_tokens` with patterns that choose blocks in each call: what becomes of a model, and what is left dense."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.api.watching import _same_map
from sparsecc.attention.dynamic import DynamicMap
from sparsecc.calibration.context import Context
from sparsecc.errors import ModelError, RecipeError, RecipeWarning, UserError
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention
from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention
from sparsecc.passes import pipeline
from sparsecc.passes.base import PassResult
from sparsecc.passes.reorder_tokens import ReorderTokens, plan_of
from sparsecc.recipe import Recipe
from tests.laws.hosts import HOSTS
from tests.passes.test_reorder_tokens import AttentionGraph, attention
from tests.tolerance import assert_close

STEP = ReorderTokens(pattern="block_topk", density=0.6, block=8, text_tokens=3)
every_pattern = pytest.mark.parametrize("pattern", ["block_topk", "loki:4", "skip_softmax"])


class SelfAttention(nn.Module):
    """Two heads of keys for four of queries. Tokens look at themselves most."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.q, self.kv, self.out, self.causal = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 7), causal
        with torch.no_grad():
            self.q.weight.copy_(self.kv.weight[:16].view(2, 1, 8, 32).expand(-1, 2, -1, -1).reshape(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 8)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(9 * q, k, v, is_causal=self.causal, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2))


@cache
def model(causal: bool = False) -> tuple[FxGraph, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, x = SelfAttention(causal).eval(), torch.randn(2, 101, 32)
    return FxGraph.from_module(module, (x,)), x


def apply(graph: Graph, x: Tensor, step: ReorderTokens = STEP) -> PassResult:
    return step.apply(graph, Context(calibration=[(x,)]))


def refusal(site: Attention, step: ReorderTokens = STEP) -> str:
    [match] = step.apply(AttentionGraph([site]), Context()).matches
    assert match.refused is not None
    return match.refused.reason


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
@every_pattern
def test_a_model_chooses_blocks_after_a_file_too_and_learns(pattern: str, causal: bool, tmp_path: Path) -> None:
    graph, x = model(causal)
    result = apply(graph, x, replace(STEP, pattern=pattern))
    [match] = result.matches
    assert result.modified and "blocks chosen in each call, lost mass 0." in str(match.action)
    [site] = result.graph.sites(Attention)
    found = site.block_map
    assert isinstance(found, DynamicMap) and (found.causal, found.heads, site.kv_heads) == (causal, 4, 2)
    tapped = graph.run((x,), [site.name]).taps[site.name]
    expected = DynamicBlockAttention(found, site.scale).reference(*tapped).transpose(1, 2).flatten(2)
    after = result.graph.run((x,), ["out"])
    assert_close(after.taps["out"][0].contiguous(), expected)
    result.graph.save(tmp_path / "m.pt2")
    loaded = FxGraph.load(tmp_path / "m.pt2")
    [again] = loaded.sites(Attention)
    assert again.name == site.name and _same_map(again.block_map, found) and not _same_map(found, None)
    assert torch.equal(loaded.run((x,)).outputs[0], after.outputs[0])
    assert isinstance(result.graph, FxGraph)
    given = x.clone().requires_grad_()
    [slope] = torch.autograd.grad(result.graph.module(given).sum(), given)
    assert slope.isfinite().all() and slope.abs().sum() > 0


@pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])
def test_a_model_is_dense_every_third_call_and_its_file_goes_on_counting(causal: bool, tmp_path: Path) -> None:
    graph, x = model(causal)
    plain = apply(graph, x).graph.run((x,)).outputs[0]
    result = apply(graph, x, replace(STEP, pattern="block_topk:refresh=3"))
    made = result.graph
    assert isinstance(made, FxGraph)
    assert "on average over 3 calls: every 3rd call, from the first on, computes all blocks" in str(result.matches[0].action)
    found = _calls(made, x, 7)
    for call, y in enumerate(found):
        if call % 3:
            assert torch.equal(y, plain)
        else:
            assert_close(y, graph.run((x,)).outputs[0])
    assert not torch.allclose(found[0], plain, atol=1e-3)
    assert torch.equal(made.run((x,)).outputs[0], plain)  # what is measured is what is chosen
    made.save(tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"changes its own buffer 'attention\.calls' when it runs; only target cuda takes"):
        FxGraph.load(tmp_path / "m.pt2")
    loaded = FxGraph.load(tmp_path / "m.pt2", stateful=True)
    [before, after] = (one.sites(Attention)[0] for one in (made, loaded))
    assert after.name == before.name and _same_map(after.block_map, before.block_map)
    assert [torch.equal(y, plain) for y in _calls(loaded, x, 4)] == [True, True, False, True]  # calls 7 to 10


def _calls(graph: FxGraph, x: Tensor, count: int) -> list[Tensor]:
    with torch.no_grad():
        return [graph.module(x) for _ in range(count)]


def test_passes_that_follow_see_calls_that_choose() -> None:
    graph, x = model()
    after, samples = "prune{pattern=4x1,sparsity=0.5,criterion=sparsegpt} recover pack", Context(calibration=[(x,)])
    recipes = [f"reorder_tokens{{pattern={pattern!r},density=0.6,block=8}} {after}" for pattern in ("block_topk", "block_topk:refresh=3")]
    plain, made = (pipeline.run(graph, Recipe.load(recipe), samples)[0] for recipe in recipes)
    assert isinstance(made, FxGraph)
    assert torch.equal(made.run((x,)).outputs[0], plain.run((x,)).outputs[0])
    assert torch.equal(_calls(made, x, 2)[1], plain.run((x,)).outputs[0])


def test_errors_of_a_loop_add_up_to_less() -> None:
    class Step(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.2 * functional.pad(super().forward(x), (0, 25))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, start = Step(False).eval(), torch.randn(1, 101, 32)
    graph = FxGraph.from_module(module, (start,))

    def after(steps: int, taken: FxGraph) -> Tensor:
        x = start
        for _ in range(steps):
            [x] = _calls(taken, x, 1)
        return x

    made: Any = [apply(graph, start, replace(STEP, pattern=f"block_topk{way}")).graph for way in ("", ":refresh=4", ":refresh=2")]
    errors = [float((after(9, one) - after(9, graph)).norm()) for one in made]
    assert errors[0] > 1.2 * errors[1] > 1.2 * 1.2 * errors[2] > 0


def test_parts_of_a_model_that_run_again_and_again_are_seen_as_in_calls_that_choose() -> None:
    graph, x = model()
    made: Any = apply(graph, x, replace(STEP, pattern="block_topk:refresh=2")).graph
    seen = 0
    for block in made.blocks([(x,), (x,)]):
        first, *others = [block.run(index, {}) for index in (0, 1, 0, 1)]
        assert all(torch.equal(y, other) for run in others for y, other in zip(first, run, strict=True))
        seen += len(block.sites)
    assert seen == 3


def test_at_density_one_there_is_nothing_to_refresh() -> None:
    graph, x = model()
    [match] = apply(graph, x, replace(STEP, pattern="block_topk:refresh=3", density=1.0)).matches
    assert match.refused is not None and match.refused.reason == "block_topk:refresh=3 keeps every block of 101 tokens"


def test_code_for_a_cpu_counts_no_calls_and_its_report_says_so() -> None:
    recipe = {"passes": [{"reorder_tokens": {"pattern": "block_topk:refresh=3", "density": 0.6, "block": 8}}]}
    module, x = SelfAttention(False).eval(), model()[1]
    with pytest.warns(RecipeWarning, match="changed nothing"):
        compiled = sparsecc.compile(torch.export.export(module, (x,)), (x,), recipe=recipe, target="reference")
    said = "block_topk:refresh=3 counts the model's calls, and code for CPUs remembers nothing from call to call; for GPUs it does"
    [site] = [site for site in compiled.report.sites if site.kind == "Attention"]
    assert said in site.reason and site.decision == "skipped"
    for _ in range(2):
        assert_close(compiled(x), module(x).detach())


def test_explain_says_the_average_and_which_calls_are_dense() -> None:
    recipe = {"passes": [{"reorder_tokens": {"pattern": "block_topk:refresh=4", "density": 0.6, "block": 8}}]}
    x = model()[1]
    said = sparsecc.explain(SelfAttention(False).eval(), (x,), recipe=recipe, calibration=[(x,)])
    assert "density 0.65 on average over 4 calls: every 4th call, from the first on, computes all blocks, the others choose 0.54" in said


def test_twice_is_once_and_a_listing_says_it() -> None:
    graph, x = model()
    once = apply(graph, x).graph
    twice = apply(once, x)
    assert not twice.modified
    assert [match.refused.reason for match in twice.matches if match.refused] == ["block-sparse already, density 0.57"]
    assert "block_map:8" in str(once)
    assert plan_of(once).sites == []


def test_everything_kept_is_dense_and_is_refused() -> None:
    graph, x = model()
    [match] = apply(graph, x, replace(STEP, density=1.0)).matches
    assert match.refused is not None and match.refused.reason == "block_topk keeps every block of 101 tokens"


def test_a_rule_that_is_calibrated_asks_for_samples_and_one_that_is_not_does_without() -> None:
    graph = AttentionGraph([attention()])
    for pattern in ("loki", "skip_softmax"):
        with pytest.raises(RecipeError, match=f"pattern: {pattern} has to be calibrated, so that calibration inputs are needed"):
            replace(STEP, pattern=pattern).apply(graph, Context())
    [match] = STEP.find(graph, Context())
    assert str(match.action) == "density 0.59, blocks chosen in each call"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"has_mask": True}, "block_topk does not look at masks; only attention without a mask is"),
        ({"kv_tokens": 77}, "cross attention: 245 queries, 77 keys"),
        ({"tokens": None}, "the model leaves its number of tokens open"),
        ({"tokens": 2}, "2 tokens, of which 3 should be text"),
    ],
)
def test_refuses(fields: dict[str, Any], reason: str) -> None:
    assert refusal(attention(**fields)).startswith(reason)


def test_onnx_has_no_operator_for_it() -> None:
    class Dense(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    x = torch.randn(1, 40, 24)
    graph = HOSTS["onnx"](Dense(), x)
    [match] = apply(graph, x).matches
    said = "block_topk chooses blocks in each call; for onnx there is no operator that does"
    assert match.refused is not None and match.refused.reason == said
    [site] = graph.sites(Attention)
    found = STEP._pattern.choose(_asked(site)).map
    with pytest.raises(UserError, match="ONNX has no DynamicBlockAttention"):
        graph.replace(site, DynamicBlockAttention(found, site.scale))


def _asked(site: Attention) -> Any:
    from sparsecc.attention.base import Asked, Grid

    return Asked(Grid.line(40), site.heads, site.scale, 0.5, 8)


@pytest.mark.parametrize("field", [{"precision": "int8"}, {"allocation": "sensitivity"}, {"density": None, "min_psnr": 30.0}])
def test_what_goes_with_maps_alone_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"{[*field][-1]}: not for block_topk, which chooses blocks in each call"):
        replace(STEP, **field)


def test_a_plan_holds_none() -> None:
    with pytest.raises(RecipeError, match="pattern: block_topk chooses blocks in each call; plans hold maps that are the same in all"):
        STEP.calibrate(AttentionGraph([attention()]))


def test_an_operator_without_masks_takes_no_masked_place() -> None:
    site = attention(has_mask=True, tokens=40)
    found = STEP._pattern.choose(_asked(site)).map
    with pytest.raises(UserError, match="has a mask, the operator takes none"):
        AttentionGraph([site]).replace(site, DynamicBlockAttention(found, 0.3))
