from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models._locality import SCALE, planted
from sparsecc.attention.base import BlockMap, Grid
from sparsecc.attention.plan import Plan, Planned
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Run
from sparsecc.graph.sites import Attention, Site
from sparsecc.passes.base import Match, PassResult
from sparsecc.passes.reorder_tokens import Reordering, ReorderTokens, plan_of
from sparsecc.recipe import Recipe
from tests.passes.fake import FakeGraph

GRID = Grid(3, 8, 10, text_tokens=5)
ORDERS = (5, 1)
STEP = ReorderTokens(grid=GRID.axes, text_tokens=5, density=0.4, block=16)
CONTEXT = Context(calibration=[(0,), (1,)])


class AttentionGraph(FakeGraph):
    """Sites that are attention; what enters them is planted, other values for each input."""

    def __init__(self, sites: Sequence[Attention]) -> None:
        super().__init__(sites)  # type: ignore[arg-type]
        self.tapped: list[tuple[str, ...]] = []

    def run(self, inputs: Any, taps: Sequence[str] = ()) -> Run:
        self.tapped.append(tuple(taps))
        return Run((), {tap: entering(inputs[0]) for tap in taps})

    def _replace(self, site: Site, op: Any) -> None:
        assert isinstance(site, Attention)
        self._sites[site.name] = replace(site, block_map=op.map, precision=op.precision)  # type: ignore[assignment]

    def copy(self) -> AttentionGraph:
        return AttentionGraph(tuple(self._sites.values()))  # type: ignore[arg-type]


@cache
def entering(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    return planted(GRID, ORDERS, seed)


def attention(name: str = "attn", **fields: Any) -> Attention:
    return Attention(**{"name": name, "heads": 2, "kv_heads": 2, "head_dim": 64, "scale": SCALE, "tokens": GRID.tokens} | fields)


def apply(*sites: Attention, step: ReorderTokens = STEP) -> PassResult:
    return step.apply(AttentionGraph(sites), CONTEXT)


@cache
def once() -> PassResult:
    return apply(attention("a"), attention("b", tokens=None))


def refusal(site: Attention, step: ReorderTokens = STEP) -> str:
    [match] = apply(site, step=step).matches
    assert match.refused is not None
    return match.refused.reason


def maps(result: PassResult) -> list[BlockMap]:
    return [site.block_map for site in result.graph.sites(Attention) if isinstance(site.block_map, BlockMap)]


def test_every_site_gets_the_planted_orders_and_the_density() -> None:
    assert once().modified
    for found in maps(once()):
        assert found.orders is not None and found.orders.tolist() == list(ORDERS)
        assert (found.grid, found.block) == (GRID, 16)
        assert found.density == pytest.approx(0.4, abs=0.01)
    assert len(maps(once())) == 2


@pytest.mark.parametrize(
    ("pattern", "orders"),
    [
        ("paro:curves", r", order (Morton|Hilbert) for (heads 0, 1|head .*)$"),
        ("paro:clusters", ", an order of its own for heads 0, 1$"),
        ("paro:raster", r"\)$"),
    ],
)
def test_orders_that_are_none_of_axes_are_said_too(pattern: str, orders: str) -> None:
    [match] = apply(attention(), step=replace(STEP, pattern=pattern)).matches
    assert re.search(orders, str(match.action))


def test_what_was_done_is_said_with_its_cost_and_the_order_of_each_head() -> None:
    action = str(once().matches[0].action)
    assert action.startswith("density 0.40, lost mass 0.0")
    assert ", output error 0." in action
    assert action.endswith("order FWH for head 1, order WHF for head 0")


def test_twice_is_once() -> None:
    twice = STEP.apply(once().graph, CONTEXT)
    assert not twice.modified
    assert [match.refused.reason for match in twice.matches if match.refused] == ["block-sparse already, density 0.40"] * 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"causal": True}, "causal attention"),
        ({"has_mask": True}, "its mask would have to be reordered"),
        ({"kv_heads": 3}, "3 heads of keys cannot serve 2 heads of queries evenly"),
        ({"kv_tokens": 77}, "cross attention: 245 queries, 77 keys"),
        ({"tokens": 244}, "244 tokens, a grid of 3×8×10 and 5 text tokens before has 245"),
        ({"bound": "v has 3 channels"}, "v has 3 channels"),
    ],
)
def test_refuses(fields: dict[str, Any], reason: str) -> None:
    assert refusal(attention(**fields)).startswith(reason)


def test_refuses_a_density_below_what_text_takes() -> None:
    assert refusal(attention(), replace(STEP, density=0.05)).startswith("density 0.05: text and the diagonal alone are 0.18")


def test_refuses_by_the_tensors_when_the_model_leaves_its_sizes_open(monkeypatch: pytest.MonkeyPatch) -> None:
    site, (q, k, v) = attention(tokens=None), entering(0)
    for taps, reason in [
        ((q, k[:, :, :9], v[:, :, :9]), "cross attention: 245 queries, 9 keys"),
        ((q[:, :, :9], k[:, :, :9], v[:, :, :9]), "9 tokens, a grid of"),
        ((q, k * float("nan"), v), "its q, k or v held NaN"),
    ]:

        def run(self: AttentionGraph, inputs: Any, names: Sequence[str], taps: tuple[Tensor, ...] = taps) -> Run:
            return Run((), dict.fromkeys(names, taps))

        monkeypatch.setattr(AttentionGraph, "run", run)
        assert refusal(site).startswith(reason)


def test_a_precision_is_handed_on_and_said() -> None:
    result = apply(attention(), step=replace(STEP, precision="int8"))
    assert str(result.matches[0].action).startswith("density 0.40, in int8, lost mass 0.0")
    assert [site.precision for site in result.graph.sites(Attention)] == ["int8"]
    with pytest.raises(RecipeError, match="precision: 'float16' is none of float32, bfloat16, int8"):
        replace(STEP, precision="float16")  # type: ignore[arg-type]


def test_heads_above_the_error_stay_dense_and_all_of_them_refuse_the_site() -> None:
    [match] = STEP.find(AttentionGraph([attention()]), CONTEXT)
    assert isinstance(match.action, Reordering)
    assert match.action.choice is not None and match.action.choice.error is not None
    low, high = sorted(match.action.choice.error.tolist())
    [action] = [str(match.action) for match in apply(attention(), step=replace(STEP, max_error=(low + high) / 2)).matches]
    assert ", 1 of 2 heads dense (" in action
    assert refusal(attention(), replace(STEP, max_error=0.0)).startswith("every head's output error is above max_error 0, the least is 0.")


def test_large_layers_are_tapped_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = AttentionGraph([attention("a"), attention("b")])
    list(STEP.find(graph, CONTEXT))
    assert graph.tapped == [("a", "b")] * 2
    monkeypatch.setattr("sparsecc.passes.reorder_tokens.TAPPED_BYTES", 1)
    graph.tapped.clear()
    list(STEP.find(graph, CONTEXT))
    assert graph.tapped == [("a",)] * 2 + [("b",)] * 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid": None}, "grid: missing"),
        ({"grid": (3, 0, 2)}, r"grid: \[3, 0, 2\]"),
        ({"text_tokens": -1}, "text_tokens: -1"),
        ({"density": 0.0}, r"density: 0.0 is not in \(0, 1\]"),
        ({"density": 1.5}, "density: 1.5"),
        ({"max_error": -0.1}, "max_error: -0.1"),
        ({"block": 0}, "block: 0"),
        ({"pattern": "parro"}, "pattern: no 'parro'; did you mean 'paro'"),
        ({"pattern": "sliding_window:x", "grid": None}, "pattern 'sliding_window:x': sliding_window reads no options 'x'"),
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        replace(STEP, **fields)


@pytest.mark.parametrize("grid", [[1, 3], [1, 2, 3, 4]])
def test_a_grid_of_another_length(grid: list[int]) -> None:
    with pytest.raises(RecipeError, match=rf"reorder_tokens\.grid: expected a list of another length, not {re.escape(str(grid))}$"):
        Recipe.load({"passes": [{"reorder_tokens": {"grid": grid}}]})


def test_needs_calibration_or_a_plan() -> None:
    with pytest.raises(RecipeError, match=r"^plan: missing, so that calibration inputs are needed"):
        STEP.apply(AttentionGraph([attention()]))
    assert list(STEP.find(AttentionGraph([]), Context())) == []


WINDOW = ReorderTokens(pattern="sliding_window:40", block=16)


def windowed(*sites: Attention, step: ReorderTokens = WINDOW, context: Context = Context()) -> list[Match[Attention, Reordering]]:
    return list(step.find(AttentionGraph(sites), context))


def test_a_window_needs_neither_grid_nor_calibration_and_keeps_causal_attention_causal() -> None:
    sites = [attention("a", causal=True), attention("b", kv_heads=1)]
    result = WINDOW.apply(AttentionGraph(sites))
    assert [str(match.action) for match in result.matches] == ["density 0.43", "density 0.39"]
    for found, causal in zip(maps(result), (True, False), strict=True):
        assert (found.grid, found.orders, found.causal) == (Grid.line(245), None, causal)
        assert int(found.keep[0, 8].count_nonzero()) == (4 if causal else 7)


def test_what_a_window_costs_is_said_where_there_are_samples() -> None:
    [match] = windowed(attention(causal=True), context=CONTEXT)
    assert str(match.action).startswith("density 0.43, lost mass 0.")
    [match] = windowed(attention(tokens=None), context=CONTEXT)
    assert isinstance(match.action, Reordering) and match.action.map.grid == Grid.line(245)


def test_a_mask_stays_and_nothing_is_said_of_costs_that_it_has_a_part_in() -> None:
    site = attention(has_mask=True)
    assert [str(match.action) for match in windowed(site, context=CONTEXT)] == ["density 0.39"]
    [match] = windowed(site, step=replace(WINDOW, max_error=0.1), context=CONTEXT)
    assert match.refused is not None
    assert match.refused.reason == "its mask is not among the samples, so that max_error cannot be judged"


def test_global_tokens_see_all_and_are_seen() -> None:
    [match] = windowed(attention(), step=replace(WINDOW, text_tokens=3))
    assert isinstance(match.action, Reordering)
    assert match.action.map.grid == Grid.line(245, 3)
    assert isinstance(match.action.map, BlockMap)
    assert match.action.map.keep[:, 0].all() and match.action.map.keep[:, :, 0].all()


def test_where_a_window_cannot_be() -> None:
    reasons = [
        match.refused.reason
        for match in windowed(
            *(attention("a", tokens=None), attention("b", tokens=3), attention("c", kv_tokens=9), attention("d", tokens=40, causal=True)),
            step=replace(WINDOW, text_tokens=3),
        )
        if match.refused
    ]
    assert [reason.split(";")[0] for reason in reasons] == [
        "the model leaves its number of tokens open",
        "3 tokens, of which 3 should be text",
        "cross attention: 245 queries, 9 keys",
        "sliding_window:40 keeps every block of 40 tokens",
    ]
    with pytest.raises(RecipeError, match=r"^max_error: needs calibration inputs"):
        windowed(attention(), step=replace(WINDOW, max_error=0.1))


def test_a_causal_plan_comes_back_and_is_not_for_attention_that_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    plan_of(WINDOW.apply(AttentionGraph([attention("a", causal=True)])).graph).save(path)
    [match] = ReorderTokens(plan=path).find(AttentionGraph([attention("a", causal=True)]), Context())
    assert isinstance(match.action, Reordering) and match.action.map.causal
    with pytest.raises(RecipeError, match="attention 'a' is not causal, the plan's is"):
        with_plan(path, attention("a"))
    plan_of(WINDOW.apply(AttentionGraph([attention("a", has_mask=True)])).graph).save(path)
    assert with_plan(path, attention("a", has_mask=True))[0].refused is None
    with pytest.raises(RecipeError, match="attention 'a' is causal, the plan's is not"):
        with_plan(path, attention("a", causal=True))


@pytest.fixture
def plan(tmp_path: Path) -> str:
    plan_of(once().graph).save(tmp_path / "plan.json")
    return str(tmp_path / "plan.json")


def with_plan(plan: str, *sites: Attention, **fields: Any) -> list[Match[Any, str]]:
    """Without calibration."""
    return list(ReorderTokens(plan=plan, **fields).apply(AttentionGraph(sites)).matches)


def test_a_plan_gives_the_same_maps_without_calibration(plan: str) -> None:
    again = ReorderTokens(plan=plan).apply(AttentionGraph([attention("a"), attention("b", tokens=None)]))
    for found, before in zip(maps(again), maps(once()), strict=True):
        assert torch.equal(found.keep, before.keep)
        assert torch.equal(found.places(), before.places())
    assert str(again.matches[0].action) == "density 0.40, order FWH for head 1, order WHF for head 0"


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([attention("a")], "made for another model, which had an attention 'b'"),
        ([attention("a"), attention("b"), attention("c")], "made for another model: its attention has other names, heads or sizes"),
        ([attention("a"), attention("b", heads=3, kv_heads=3)], "made for another model"),
        ([attention("a"), attention("b", tokens=246)], "attention 'b' has 246 tokens, the plan is for 245"),
    ],
)
def test_a_plan_for_something_else_is_refused(plan: str, sites: list[Attention], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^plan: .*plan\.json: {message}"):
        with_plan(plan, *sites)


def test_a_plan_and_a_recipe_that_disagree(plan: str) -> None:
    with pytest.raises(RecipeError, match="the plan is for a grid of 3×8×10 and 5 text tokens before, the recipe says 3×8×10"):
        with_plan(plan, attention("a"), attention("b"), grid=GRID.axes)


def test_what_a_plan_left_dense_stays_dense_and_what_cannot_be_says_why(tmp_path: Path) -> None:
    sites = [attention("a"), attention("b", causal=True), attention("c")]
    plan_of(replace_targets(sites, ("a",))).save(tmp_path / "plan.json")
    _, causal, left = with_plan(str(tmp_path / "plan.json"), *sites)
    assert causal.refused is not None and causal.refused.reason.startswith("causal")
    assert left.refused is not None and left.refused.reason == "the plan leaves it dense"


def test_a_plan_for_parts_of_the_steps_needs_a_step(plan: str, tmp_path: Path) -> None:
    whole = Plan.load(plan)
    [first, second] = whole.planned
    other = replace(first.map, keep=first.map.full.expand_as(first.map.keep))
    parts = [replace(first, steps=(0.2, 0.5)), Planned("a", other, (0.5, 1.0)), second]
    Plan(whole.model, parts).save(tmp_path / "parts.json")
    path, sites = str(tmp_path / "parts.json"), [attention("a"), attention("b")]
    with pytest.raises(RecipeError, match=r"parts\.json: attention 'a' has a map for steps 0\.2 to 0\.5 alone.*; plan_step: 0\.5 takes"):
        with_plan(path, *sites)
    dense, _ = with_plan(path, *sites, plan_step=0.0)
    assert dense.refused is not None and dense.refused.reason == "the plan leaves it dense"
    for step, density in ((0.3, 0.4), (0.5, 1.0)):
        chosen, _ = with_plan(path, *sites, plan_step=step)
        assert str(chosen.action).startswith(f"density {density:.2f}")
    with pytest.raises(RecipeError, match=r"plan_step: 1\.0 is not in \[0, 1\)"):
        ReorderTokens(plan=path, plan_step=1.0)


def replace_targets(sites: Sequence[Attention], targets: tuple[str, ...]) -> Any:
    return replace(STEP, targets=targets).apply(AttentionGraph(sites), CONTEXT).graph
