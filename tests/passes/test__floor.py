"""A floor under the model's own outputs, recomputed here from what the pass gives back."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsecc.attention.ladder import DENSITIES
from sparsecc.calibration.context import Context, Progress
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph, Run
from sparsecc.graph.sites import Attention
from sparsecc.passes.base import PassResult
from sparsecc.passes.reorder_tokens import ReorderTokens
from sparsecc.quality import psnr, ssim
from tests.laws.hosts import HOSTS
from tests.passes.attending import BLOCK, GRID, graph, image

every_host = pytest.mark.parametrize("host", HOSTS)
SAMPLES = [(image(seed),) for seed in range(1, 6)]
HELD_OUT = SAMPLES[1::2]


def step(**fields: Any) -> ReorderTokens:
    return ReorderTokens(grid=GRID, block=BLOCK, **fields)


@cache
def applied(host: str, **fields: Any) -> PassResult:
    return step(**fields).apply(graph(host), Context(calibration=SAMPLES))


def outputs(of: Graph) -> list[Tensor]:
    return [of.run(sample).outputs[0] for sample in HELD_OUT]


def least(host: str, other: Graph, measure: Any) -> float:
    dense = outputs(graph(host))
    peak = float(torch.stack(dense).max() - torch.stack(dense).min())
    return min(measure(one, two, peak) for one, two in zip(dense, outputs(other), strict=True))


def density(of: Graph) -> float:
    found = [site.block_map.density if site.block_map is not None else 1.0 for site in of.sites(Attention)]
    return sum(found) / len(found)


@every_host
@pytest.mark.parametrize("allocation", ["uniform", "sensitivity"])
def test_the_floor_is_reached_on_held_out_inputs_and_the_next_lower_density_misses_it(host: str, allocation: str) -> None:
    found = applied(host, min_psnr=33.0, allocation=allocation)
    reached = least(host, found.graph, psnr)
    assert reached >= 33
    action = str(found.matches[0].action)
    assert action.endswith(f"PSNR {reached:.1f} dB on 2 held-out inputs (PSNR 33.0 dB asked for)")
    if allocation == "uniform":
        used = min(DENSITIES, key=lambda one: abs(one - density(found.graph)))
        lower = step(density=DENSITIES[DENSITIES.index(used) - 1]).apply(graph(host), Context(calibration=SAMPLES[::2]))
        assert least(host, lower.graph, psnr) < 33


@every_host
def test_the_floor_holds_in_the_precision_asked_for(host: str) -> None:
    found = applied(host, min_psnr=33.0, precision="int8")
    reached = least(host, found.graph, psnr)
    assert reached >= 33 and reached != least(host, applied(host, min_psnr=33.0).graph, psnr)
    action = str(found.matches[0].action)
    assert ", in int8, " in action and f"PSNR {reached:.1f} dB on 2 held-out inputs" in action


@every_host
def test_sharing_out_reaches_the_floor_with_fewer_blocks(host: str) -> None:
    uniform, shared = (applied(host, min_psnr=33.0, allocation=allocation) for allocation in ("uniform", "sensitivity"))
    assert density(shared.graph) < density(uniform.graph) / 1.5


@every_host
def test_both_floors_hold_where_both_are_asked_for(host: str) -> None:
    found = applied(host, min_psnr=20.0, min_ssim=0.999, allocation="sensitivity").graph
    assert least(host, found, ssim) >= 0.999
    assert least(host, found, psnr) >= 20
    assert density(found) > density(applied(host, min_psnr=20.0, allocation="sensitivity").graph)


@every_host
def test_where_no_density_reaches_the_floor_all_is_dense_and_says_so(host: str) -> None:
    found = applied(host, min_psnr=200.0)
    assert not found.modified
    reasons = [match.refused.reason for match in found.matches if match.refused]
    assert len(reasons) == 2
    assert all(reason.startswith("at density 0.9 the model has PSNR ") for reason in reasons)
    assert all(reason.endswith(" dB on held-out inputs, below the PSNR 200.0 dB asked for") for reason in reasons)


def test_a_window_is_widened_until_the_floor_is_reached() -> None:
    window = ReorderTokens(pattern="sliding_window", block=BLOCK, min_psnr=33.0)
    found = window.apply(graph("fx"), Context(calibration=SAMPLES))
    assert least("fx", found.graph, psnr) >= 33
    fixed = ReorderTokens(pattern="sliding_window:12", block=BLOCK, min_psnr=60.0).apply(graph("fx"), Context(calibration=SAMPLES))
    assert not fixed.modified


def test_what_is_done_is_told() -> None:
    told: list[Progress] = []
    step(min_psnr=33.0).apply(graph("fx"), Context(calibration=SAMPLES, progress=told.append))
    assert [one.note for one in told[:2]] == [site.name for site in graph("fx").sites(Attention)]
    assert all(one.what == "checking held-out inputs" and one.done <= one.total for one in told[2:])
    assert "density" in told[-1].note and "PSNR" in told[-1].note


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_psnr": 0.0}, "min_psnr: 0 is no number of decibels above zero"),
        ({"min_ssim": 1.0}, r"min_ssim: 1 is not in \(0, 1\)"),
        ({"min_psnr": 30.0, "density": 0.5}, "density: min_psnr decides it; leave one of them out"),
        ({"min_psnr": 30.0, "min_ssim": 0.5, "plan": "plan.json"}, "plan: its maps are chosen already; leave min_psnr and min_ssim out"),
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        step(**fields)


def test_inputs_are_needed_to_choose_on_and_to_hold_out() -> None:
    with pytest.raises(RecipeError, match=r"^min_psnr: every second calibration input is held out, so that at least two are needed, not 1"):
        step(min_psnr=30.0).apply(graph("fx"), Context(calibration=SAMPLES[:1]))
    other = [*SAMPLES, (image(9).repeat(2, 1, 1, 1),)]
    with pytest.raises(RecipeError, match=r"^min_psnr: needs calibration inputs of one size"):
        step(min_psnr=30.0).apply(graph("fx"), Context(calibration=other))
    with pytest.raises(RecipeError, match=r"^min_ssim: needs calibration inputs"):
        ReorderTokens(pattern="sliding_window", min_ssim=0.9).apply(graph("fx"))


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (lambda y: y.flatten(2), {"min_ssim": 0.9}, "min_ssim: an output of shape 1×3×144 is no image"),
        (lambda y: y[..., :10], {"min_ssim": 0.9}, "min_ssim: an output of shape 1×3×12×10 is no image"),
        (lambda y: y * torch.inf, {"min_psnr": 9.0}, "min_psnr: the dense model gives NaN or infinity for held-out input 0"),
        (lambda y: y * 0, {"min_psnr": 9.0}, "min_psnr: an output of the dense model has one value everywhere"),
        (lambda y: y.long(), {"min_psnr": 9.0}, "min_psnr: the model has no output of floating numbers"),
    ],
)
def test_outputs_that_cannot_be_compared(change: Any, fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(graph("fx"))
    run = kind.run

    def changed(self: Any, *given: Any) -> Run:
        found = run(self, *given)
        return Run(tuple(map(change, found.outputs)), found.taps)

    monkeypatch.setattr(kind, "run", changed)
    with pytest.raises(RecipeError, match=f"^{message}"):
        step(**fields).apply(graph("fx"), Context(calibration=SAMPLES))
