"""Times by the share kept, made of what the chooser has measured."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import sparsecc
from sparsecc.api import clock
from sparsecc.codegen.cpu.target import detect
from sparsecc.errors import RecipeError
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune
from tests.passes.fake import FakeGraph, linear


def choices(**measured: float) -> dict[float, Any]:
    """By sparsity in percent, as p50=..., beside dense ones of 1000 µs."""
    return {1 - float(name[1:]) / 100: SimpleNamespace(measured_us=us, dense_us=1000.0) for name, us in measured.items()}


def test_a_layer_is_as_fast_as_the_faster_of_sparse_and_dense() -> None:
    time = clock.curve(choices(p50=1200.0, p80=400.0, p90=200.0))
    assert [time(share) for share in (1.0, 0.5, 0.2, 0.1)] == pytest.approx([1.0, 1.0, 0.4, 0.2])
    assert time(0.15) == pytest.approx(0.3)
    assert time(0.05) == pytest.approx(0.2)  # nothing was stored sparse there, but fewer weights take no longer


def test_where_pack_keeps_a_layer_dense_it_takes_the_dense_time() -> None:
    time = clock.curve(choices(p50=500.0))
    assert time(0.6) == pytest.approx(1.0)
    assert time(0.55) == pytest.approx(0.75)


def test_more_weights_never_take_less_time() -> None:
    time = clock.curve(choices(p60=500.0, p70=600.0, p80=300.0))
    shares = [i / 50 for i in range(1, 51)]
    assert sorted(map(time, shares)) == list(map(time, shares))


def test_a_layer_that_never_gets_faster_counts_as_nothing() -> None:
    assert clock.curve({})(0.5) == 0.0
    assert clock.curve(choices(p50=1300.0, p90=1100.0))(0.5) == 0.0


def test_layers_are_timed_with_the_masks_that_prune_makes_at_random() -> None:
    graph = FakeGraph([linear("a", 64, 64), linear("b", 64, 64, seed=1), linear("c", 64, 64, seed=2)])
    timed = clock._at_random(graph, ("a", "b"), "4x1", 0.75).sites(WeightSite)
    pruned = Prune(targets=("a", "b"), criterion="random", pattern="4x1", sparsity=0.75).apply(graph).graph.sites(WeightSite)
    assert [float((site.weight == 0).float().mean()) for site in timed] == [0.75, 0.75, 0.0]
    assert all(torch.equal(one.weight, other.weight) for one, other in zip(timed, pruned, strict=True))
    assert graph.edits == []


def test_there_is_none_for_another_machine() -> None:
    here = detect(1)
    assert clock.clock_of([], here, {}) is not None
    assert clock.clock_of([], replace(here, cpu="z80"), {}) is None


def test_compile_keeps_a_budget_or_names_the_nearest() -> None:
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval(), (torch.randn(16, 64),)

    def compiled(milliseconds: float) -> sparsecc.runtime.compiled.Compiled:
        prune = {"prune": {"pattern": "4x1", "budget": {"milliseconds": milliseconds}}}
        return sparsecc.compile(module, x, recipe={"passes": [prune, "pack"]}, threads=1)

    with pytest.raises(RecipeError, match=r"0\.001 milliseconds cannot be met, the nearest that can is"):
        compiled(1e-6)
    assert not any(site.format for site in compiled(1e6).report.sites)
