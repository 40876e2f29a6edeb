"""Blocks chosen in each call: rules against slow definitions, how many they keep, and what is calibrated."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models._locality import SCALE, planted
from sparsecc import attention
from sparsecc.attention.base import Asked, Grid, Pattern, Sample, required
from sparsecc.attention.dynamic import (
    Dynamic,
    DynamicMap,
    Margin,
    Pooled,
    Principal,
    Rule,
    per_row,
    principal_components,
    refreshed,
    rule_of,
)
from sparsecc.attention.mass import measure
from sparsecc.attention.skip_softmax import SkipSoftmax
from sparsecc.errors import RecipeError
from tests.laws.members import ATTENTION

SIZES = (2, 4, 2, 21, 6)  # batch, heads, heads of keys, tokens, head_dim
BLOCK = 4
every_pattern = pytest.mark.parametrize("pattern", [made for made in ATTENTION.values() if made.dynamic], ids=repr)
every_order = pytest.mark.parametrize("causal", [False, True], ids=["whole", "causal"])


def drawn(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Sample:
    batch, heads, kv_heads, tokens, depth = sizes
    generator = torch.Generator().manual_seed(seed)
    return Sample(*(torch.randn(batch, count, tokens, depth, generator=generator) for count in (heads, kv_heads, kv_heads)))


def asked(density: float = 0.5, causal: bool = False, text: int = 0, **fields: object) -> Asked:
    sample = drawn()
    given = {"grid": Grid.line(21, text), "heads": 4, "scale": 0.3, "density": density, "block": BLOCK, "samples": [sample]}
    return Asked(**given | {"causal": causal} | fields)  # type: ignore[arg-type]


def pattern_of(key: str) -> Dynamic:
    made: Pattern = attention.create(key)
    assert isinstance(made, Dynamic)
    return made


def slow(q: Tensor, k: Tensor, kind: str, causal: bool, basis: Tensor | None = None) -> Tensor:
    """float[query_blocks, key_blocks] of one head, a pair of blocks at a time; nothing said of what a causal map does not compute."""
    if basis is not None:
        q, k = q @ basis, k @ basis
    scores = 0.3 * q @ k.T
    scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf) if causal else scores
    parts = [slice(start, start + BLOCK) for start in range(0, len(q), BLOCK)]
    found = torch.full((len(parts), len(parts)), math.nan)
    for i, queries in enumerate(parts):
        for j, keys in enumerate(parts):
            if kind == "pooled":
                found[i, j] = 0.3 * q[queries].mean(0) @ k[keys].mean(0)
            elif kind == "principal":
                found[i, j] = scores.softmax(1)[queries, keys].sum()
            else:
                found[i, j] = (scores[queries, keys].amax(1) - scores[queries].amax(1)).max()
    return found


@every_order
@pytest.mark.parametrize("kind", ["pooled", "principal", "margin"])
def test_scores_are_what_each_rule_says(kind: str, causal: bool) -> None:
    q, k, _ = drawn()
    basis = torch.linalg.qr(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(1))).Q
    rules: dict[str, Rule] = {"pooled": Pooled(2), "principal": Principal(2, basis), "margin": Margin(torch.zeros(4))}
    scores = rules[kind].scores(q, k, 0.3, BLOCK, causal)
    looked_at = torch.ones(6, 6).tril().bool() if causal else torch.ones(6, 6).bool()
    for item in range(2):
        for head in range(4):
            expected = slow(q[item, head], k[item, head // 2], kind, causal, basis[head // 2] if kind == "principal" else None)
            torch.testing.assert_close(scores[item, head][looked_at], expected[looked_at])


@every_order
def test_each_row_keeps_the_best_of_its_number_and_what_is_required(causal: bool) -> None:
    q, k, _ = drawn()
    needed = required(Grid.line(21, 5), BLOCK, causal).repeat(4, 1, 1)
    found = DynamicMap(Grid.line(21, 5), BLOCK, needed, Pooled(4), 0.5, causal)
    keep, scores = found.select(q, k, 0.3), found.rule.scores(q, k, 0.3, BLOCK, causal)
    counts = found.counts
    assert counts is not None and torch.equal(keep.sum(-1), counts.expand(2, -1, -1))
    assert counts[0].tolist() == ([1, 2, 3, 4, 4, 4] if causal else [6, 6, 4, 4, 4, 4])
    assert keep[:, needed].all() and not keep[:, :, ~found.full].any()
    worst = scores.masked_fill(~keep | needed, torch.inf).amin(-1)
    assert (scores.masked_fill(keep | ~found.full, -torch.inf).amax(-1) <= worst).all()


@every_order
@pytest.mark.parametrize("text", [0, 5])
@given(density=st.floats(0.01, 1))
def test_the_number_of_each_row_is_the_most_that_the_density_allows(causal: bool, text: int, density: float) -> None:
    want = asked(density, causal, text)
    needed = required(want.grid, BLOCK, causal)
    full = torch.ones_like(needed).tril() if causal else torch.ones_like(needed)
    most = max(round(density * int(full.sum())), int(needed.sum()))
    number = per_row(want)
    kept = [int(needed.sum(1).clamp(min=count).minimum(full.sum(1)).sum()) for count in (number, number + 1)]
    assert kept[0] <= most and (kept[1] > most or kept[1] == int(full.sum()))


@every_pattern
@every_order
@settings(max_examples=15)
@given(density=st.floats(0.05, 1), block=st.sampled_from([3, 8, 64]), text=st.integers(0, 9))
def test_a_rule_keeps_what_it_must_and_nothing_that_dense_attention_leaves_out(
    pattern: Dynamic, causal: bool, density: float, block: int, text: int
) -> None:
    want = asked(density, causal, text, block=block)
    first, second = (pattern.choose(want) for _ in range(2))
    assert first.map.same_as(second.map)
    q, k, _ = want.samples[0]
    keep, needed = first.map.select(q, k, want.scale), required(want.grid, block, causal)
    assert keep[:, :, needed].all() and not keep[:, :, ~first.map.full].any()
    share = float(keep.sum()) / (8 * int(first.map.full.sum()))
    assert first.map.chosen_density == pytest.approx(share)
    if not isinstance(pattern, SkipSoftmax):
        assert share <= max(density + 0.5 / int(first.map.full.sum()), int(needed.sum()) / int(first.map.full.sum())) + 1e-6


@every_pattern
@every_order
def test_at_density_one_everything_is_kept(pattern: Dynamic, causal: bool) -> None:
    want = asked(1.0, causal)
    found = pattern.choose(want)
    q, k, _ = drawn(seed=1)
    assert (found.map.select(q, k, 0.3) == found.map.full).all()
    assert found.map.dense_heads == [0, 1, 2, 3] and found.map.density == 1
    assert found.error is not None and found.error.max() < 1e-6 and found.lost is not None and found.lost.max() == 0


@every_pattern
def test_more_blocks_lose_no_more(pattern: Dynamic) -> None:
    grid = Grid(3, 6, 7, 4)
    want = Asked(grid, 2, SCALE, 0.0, 8, samples=[planted(grid, (0, 0))])
    found = [pattern.choose(replace(want, density=density)) for density in (0.2, 0.4, 0.7, 1.0)]
    lost = torch.stack([choice.lost for choice in found if choice.lost is not None])
    assert len(lost) == 4 and (lost.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("key", ["block_topk", "loki", "skip_softmax"])
def test_where_attention_is_local_the_blocks_that_hold_it_are_found_in_new_inputs(key: str) -> None:
    grid = Grid.line(256)
    found = pattern_of(key).choose(Asked(grid, 1, SCALE, 0.4, 16, samples=[planted(grid, (0,), 0)]))
    q, k, _ = planted(grid, (0,), 7)
    [[keep]] = found.map.select(q, k, SCALE)
    mass = measure(q[0, 0], k[0, 0], SCALE, 16).mass
    best = torch.zeros_like(keep).scatter(1, mass.topk(6).indices, True)
    assert float(mass[keep].sum() / mass[best].sum()) > 0.95
    assert keep.sum() < 0.6 * keep.numel()


def test_principal_components_are_those_of_the_centred_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:, :2]
    keys = torch.randn(2, 1, 50, 2, generator=generator) @ base.T + 100 * torch.ones(8)
    found = principal_components([Sample(keys, keys, keys)], 2)
    assert found.shape == (1, 8, 2)
    torch.testing.assert_close(found[0].T @ found[0], torch.eye(2))
    torch.testing.assert_close(found[0] @ found[0].T, base @ base.T, atol=1e-5, rtol=0)


def test_all_components_give_each_block_its_true_mass() -> None:
    want = asked(0.5)
    rule = pattern_of("loki:6").rule(want)
    q, k, _ = drawn(seed=3)
    scores = rule.scores(q, k, 0.3, BLOCK, False)
    torch.testing.assert_close(scores[1, 2], measure(q[1, 2], k[1, 1], 0.3, BLOCK).mass)
    assert isinstance(rule, Principal) and rule.basis.shape == (2, 6, 6)


@every_order
def test_the_threshold_keeps_the_density_on_the_samples(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    sharp = [Sample(*(torch.randn(1, 2, 512, 4, generator=generator) * 0.5 for _ in range(3))) for _ in range(2)]
    for density in (0.5, 0.7, 0.9):
        found = pattern_of("skip_softmax").choose(Asked(Grid.line(512), 2, 0.5, density, 4, None, causal, sharp)).map
        assert found.density == pytest.approx(density, abs=0.005)
        assert isinstance(found.rule, Margin) and (found.rule.threshold < 0).all()


def test_heads_above_max_error_are_dense() -> None:
    want = asked(0.5)
    free = pattern_of("block_topk").choose(want)
    assert free.error is not None
    limit = float(free.error.sort().values[1])
    found = pattern_of("block_topk").choose(replace(want, max_error=limit))
    wrong = (free.error > limit).nonzero().squeeze(1).tolist()
    assert found.map.dense_heads == wrong and len(wrong) == 2
    assert found.map.density == pytest.approx((2 + 2 * free.map.density) / 4)


def test_one_that_needs_no_samples_has_no_costs_without() -> None:
    found = pattern_of("block_topk").choose(replace(asked(), samples=()))
    assert (found.lost, found.error) == (None, None)
    assert [attention.create(key).needs_samples for key in ("block_topk", "loki", "skip_softmax")] == [False, True, True]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("loki:0", "components: 0 directions tell nothing"),
        ("loki:x", "loki reads no options 'x'"),
        ("block_topk:3", "block_topk reads no options"),
        ("block_topk:refresh=4:5", "block_topk reads no options"),
        ("block_topk:refresh=1", "refresh: every call would be dense; from 2 on some are not"),
        ("block_topk:refresh=0", "refresh: every 0 calls is never"),
        ("block_topk:refresh=-3", "refresh: every -3 calls is never"),
        ("loki:refresh=4", "loki reads no options"),
        ("skip_softmax:1", "skip_softmax reads no options"),
    ],
)
def test_options_that_cannot_be(key: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        attention.create(key)


def test_a_rule_is_made_again_of_its_parts() -> None:
    for rule in (Pooled(3), Principal(2, torch.ones(1, 4, 2)), Margin(torch.zeros(4))):
        again = rule_of(rule.name, rule.number, rule.learnt)
        assert type(again) is type(rule) and (again.number, again.learnt) == (rule.number, rule.learnt)
    with pytest.raises(ValueError, match="no rule 'pooled' with calibrated numbers"):
        rule_of("pooled", 3, torch.zeros(1))


def test_maps_that_contradict_themselves() -> None:
    grid = Grid.line(21, 3)
    needed = required(grid, BLOCK).repeat(4, 1, 1)
    whole = DynamicMap(grid, BLOCK, needed, Pooled(2), 0.5)
    for changed, message in (
        ({"required": needed[:, 1:]}, "required is"),
        ({"required": torch.zeros_like(needed)}, "on the diagonal, or one that holds text"),
        ({"causal": True}, "above its diagonal"),
        ({"rule": Margin(torch.zeros(3))}, "not one for 4 heads"),
        ({"refresh": 1}, "all blocks are computed every 1 calls"),
        ({"refresh": -2}, "all blocks are computed every -2 calls"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(whole, **changed)
    assert whole.same_as(replace(whole, density=0.1)) and not whole.same_as(replace(whole, rule=Pooled(3)))
    assert not whole.same_as(replace(whole, refresh=3)) and replace(whole, refresh=3).same_as(replace(whole, refresh=3))
    assert not whole.same_as(None)


@pytest.mark.parametrize("refresh", [2, 3, 22])
@every_order
def test_the_density_of_a_map_that_is_refreshed_is_an_average_over_calls(causal: bool, refresh: int) -> None:
    want = asked(0.5, causal)
    plain, found = (pattern_of(key).choose(want) for key in ("block_topk", f"block_topk:refresh={refresh}"))
    q, k, _ = want.samples[0]
    keep = plain.map.select(q, k, 0.3)
    of_calls = [refreshed(keep, torch.tensor(call), refresh, causal).float().sum() / (8 * plain.map.full.sum()) for call in range(refresh)]
    assert found.map.density == pytest.approx(float(sum(of_calls) / refresh)) and of_calls[0] == 1
    assert found.map.chosen_density == pytest.approx(plain.map.density)
    assert found.error is not None and plain.error is not None and torch.equal(found.error, plain.error)  # of calls that choose
    assert found.map.dense_heads == plain.map.dense_heads == []
    assert pattern_of("block_topk").stateful is False and pattern_of(f"block_topk:refresh={refresh}").stateful


def test_a_report_says_when_blocks_are_chosen() -> None:
    found = DynamicMap(Grid.line(21), BLOCK, required(Grid.line(21), BLOCK).repeat(4, 1, 1), Pooled(2), 0.55)
    assert str(found) == "density 0.55, blocks chosen in each call"
    said = "density 0.55 on average over 4 calls: every 4th call, from the first on, computes all blocks, the others choose 0.40 of them"
    assert str(replace(found, refresh=4)) == said
    assert [replace(found, refresh=n).nth for n in (2, 3, 11, 13, 21, 112)] == ["2nd", "3rd", "11th", "13th", "21st", "112th"]


@every_order
def test_every_so_many_calls_all_blocks_are_computed(causal: bool) -> None:
    keep = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    keep = keep.tril() if causal else keep
    full = torch.ones(6, 6).tril().bool() if causal else torch.ones(6, 6).bool()
    for call in range(9):
        found = refreshed(keep, torch.tensor(call), 4, causal)
        assert torch.equal(found, full.expand(2, 4, 6, 6) if call in (0, 4, 8) else keep)
    assert torch.equal(refreshed(keep, None, 0, causal), keep)
    with pytest.raises(ValueError, match="all blocks are computed every 4 calls, which nothing counts"):
        refreshed(keep, None, 4, causal)
