"""Densities shared out among heads, layers and parts of the steps of a pipeline, and floors under what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsecc.attention.base import required
from sparsecc.attention.ladder import DENSITIES
from sparsecc.attention.plan import Plan
from sparsecc.errors import RecipeError, UserError
from sparsecc.integrations.diffusers import Recording, apply, record, remove
from sparsecc.passes.reorder_tokens import ReorderTokens
from sparsecc.quality import psnr
from tests.integrations.test_diffusers import BLOCK, Pipe, guided, pipeline, processors
from tests.integrations.tiny import MODELS, Tiny

GRID = (3, 4, 8)
SENSITIVE = ReorderTokens(grid=GRID, density=0.5, block=BLOCK, allocation="sensitivity")


@pytest.fixture
def wan() -> Iterator[Tiny]:
    yield MODELS["Wan"]
    remove(MODELS["Wan"].model())


@cache
def recorded() -> tuple[Pipe, Recording]:
    """Eight steps, every second of them."""
    pipe = Pipe(MODELS["Wan"].model(), 8)
    with record(pipe, steps=range(0, 8, 2)) as recording:
        guided(MODELS["Wan"], 8)
    return pipe, recording


@cache
def plan(choose: ReorderTokens = SENSITIVE, steps: Any = 2) -> Plan:
    return recorded()[1].plan(choose, steps)


def density(of: Plan, part: tuple[float, float], layers: int = 2) -> float:
    maps = of.at(part[0])
    return (sum(found.density for found in maps.values()) + layers - len(maps)) / layers


def test_all_parts_together_keep_the_density_and_text_and_diagonals_stay() -> None:
    shared = plan()
    assert shared.parts == [(0.0, 0.5), (0.5, 1.0)]
    assert 0.49 < sum(density(shared, part) for part in shared.parts) / 2 <= 0.5
    assert len({keep.count_nonzero().item() for one in shared.planned for keep in one.map.keep}) > 1
    for one in shared.planned:
        assert one.map.keep[:, required(one.map.grid, BLOCK)].all()


def test_text_is_kept_in_every_part() -> None:
    flux = MODELS["Flux"]
    with record(flux.model(), steps=range(4)) as recording:
        guided(flux, 4)
    grid = flux.grid
    choose = ReorderTokens(grid=grid.axes, text_tokens=grid.text_tokens, density=0.7, block=BLOCK, allocation="sensitivity")
    shared = recording.plan(choose, 2)
    assert sum(density(shared, part) for part in shared.parts) / 2 <= 0.7
    assert all(one.map.keep[:, required(grid, BLOCK)].all() for one in shared.planned) and len(shared.planned) > 2


def test_uneven_parts_are_weighted_by_their_length() -> None:
    shared = plan(steps=((0.0, 0.25), (0.25, 1.0)))
    assert 0.25 * density(shared, (0, 0.25)) + 0.75 * density(shared, (0.25, 1)) == pytest.approx(0.5, abs=0.01)


def test_a_run_loses_less_than_with_the_same_everywhere(wan: Tiny) -> None:
    """In the transformer's outputs, step by step, for inputs that were recorded."""
    pipe = recorded()[0]
    dense, errors = guided(wan, 8), list[float]()
    for choose in (SENSITIVE, ReorderTokens(grid=GRID, density=0.5, block=BLOCK)):
        apply(pipe, plan(choose))
        errors.append(sum(float((y - other).norm() / other.norm()) ** 2 for y, other in zip(guided(wan, 8), dense, strict=True)))
    assert errors[0] < errors[1]


def test_the_same_recording_gives_the_same_plan_and_leaves_the_model_as_it_was(wan: Tiny, tmp_path: Path) -> None:
    own = processors(wan.model())
    again = recorded()[1].plan(SENSITIVE, 2)
    assert processors(wan.model()) == own
    assert all(one.map.same_as(other.map) and one.steps == other.steps for one, other in zip(plan().planned, again.planned, strict=True))
    again.save(tmp_path / "plan.json")
    read = Plan.load(tmp_path / "plan.json")
    assert [(one.site, one.steps) for one in read.planned] == [(one.site, one.steps) for one in again.planned]
    assert all(one.map.same_as(other.map) for one, other in zip(read.planned, again.planned, strict=True))


def test_steps_with_the_same_inputs_have_the_same_maps(wan: Tiny) -> None:
    """The timestep of a part is not looked at where all of it is in the inputs recorded."""
    with record(wan.model(), steps=range(4)) as recording:
        guided(wan, 4)
    for kept in (recording._begun, *recording._calls.values()):  # the second half saw what the first did
        kept[1, 2], kept[1, 3] = kept[1, 0], kept[1, 1]  # type: ignore[index]
    shared = recording.plan(SENSITIVE, 2)
    early, late = shared.at(0), shared.at(0.5)
    assert early.keys() == late.keys() and all(found.same_as(late[name]) for name, found in early.items())
    assert 0.48 < density(shared, (0, 0.5)) <= 0.5


def test_a_part_of_which_everything_is_needed_is_dense(wan: Tiny) -> None:
    with pytest.raises(RecipeError, match=r"no attention can be made sparse: attention 'blocks\.0.attn1', steps 0 to 0\.5: dense, sens"):
        recorded()[1].plan(ReorderTokens(grid=GRID, density=1.0, block=BLOCK, allocation="sensitivity"), 2)
    said = recorded()[1].said
    assert "attention 'blocks.1.attn1', steps 0.5 to 1: dense, sensitivity keeps all of its blocks: other layers lose less" in "\n".join(
        said
    )


def test_a_model_that_is_gone_or_has_a_plan_cannot_be_run(wan: Tiny) -> None:
    pipe, recording = recorded()
    apply(pipe, plan())
    with pytest.raises(UserError, match="the model has a plan applied; remove it first"):
        recording.plan(SENSITIVE)
    remove(pipe)
    with record(Pipe(wan.model())) as recording:
        wan()
    with pytest.raises(UserError, match="the model that was recorded is gone"):
        recording.plan(SENSITIVE)
    assert recording.plan(ReorderTokens(grid=GRID, density=0.5, block=BLOCK)).planned


class Floored:
    """A real pipeline, with the plans that a floor gave. runs: by other seeds than the one that was recorded."""

    def __init__(self) -> None:
        self.pipe, _ = pipeline(MODELS["Wan"])
        self.runs = [lambda seed=seed: self.run(seed) for seed in (1, 2)]
        with record(self.pipe, steps=range(4)) as self.recording:
            self.run(0)

    def run(self, seed: int) -> Tensor:
        prompts = {"prompt_embeds": torch.ones(1, 5, 16), "negative_prompt_embeds": torch.zeros(1, 5, 16)}
        sizes = {"height": 64, "width": 128, "num_frames": 9, "num_inference_steps": 4, "output_type": "latent"}
        return self.pipe(**prompts, **sizes, generator=torch.Generator().manual_seed(seed)).frames

    def reached(self, plan: Plan) -> float:
        dense = [self.run(seed) for seed in (1, 2)]
        peak = float(torch.stack(dense).max() - torch.stack(dense).min())
        apply(self.pipe, plan)
        try:
            return min(psnr(one, self.run(seed), peak) for seed, one in zip((1, 2), dense, strict=True))
        finally:
            remove(self.pipe)


@pytest.mark.parametrize("allocation", ["uniform", "sensitivity"])
def test_a_floor_holds_at_the_end_of_runs_that_were_held_out(allocation: str) -> None:
    floored = Floored()
    choose = ReorderTokens(grid=GRID, block=BLOCK, min_psnr=55.0, allocation=allocation)
    found = floored.recording.plan(choose, ((0.25, 0.5), (0.5, 1.0)), held_out=floored.runs)
    reached = floored.reached(found)
    assert reached >= 55
    assert any(line.endswith(f"PSNR {reached:.1f} dB on 2 held-out inputs (PSNR 55.0 dB asked for)") for line in floored.recording.said)
    assert found.parts == [(0.0, 0.25), (0.25, 0.5), (0.5, 1.0)] and found.at(0) == {}
    if allocation == "uniform":
        used = min(DENSITIES, key=lambda one: abs(one - found.planned[0].map.density))
        lower = ReorderTokens(grid=GRID, block=BLOCK, density=max(0.09, DENSITIES[DENSITIES.index(used) - 1]))
        assert floored.reached(floored.recording.plan(lower, ((0.25, 0.5), (0.5, 1.0)))) < 55


def test_a_floor_that_nothing_reaches() -> None:
    floored = Floored()
    with pytest.raises(RecipeError, match=r"no attention can be made sparse"):
        floored.recording.plan(ReorderTokens(grid=GRID, block=BLOCK, min_psnr=300.0), held_out=floored.runs)
    assert any("at density 0.9 the model has PSNR " in line for line in floored.recording.said)
    assert not any(type(one).__name__.startswith("Planned") for one in processors(floored.pipe.transformer))


def test_runs_that_give_no_numbers(wan: Tiny) -> None:
    recording, floor = recorded()[1], ReorderTokens(grid=GRID, block=BLOCK, min_psnr=30.0)
    gives: list[tuple[Any, str]] = [([torch.ones(2)], "a list"), (torch.ones(2).long(), "a tensor of int64")]
    for found, kind in gives:
        with pytest.raises(RecipeError, match=f"held_out: run 0 gives {kind}, not one tensor of floating numbers"):
            recording.plan(floor, held_out=[lambda found=found: found])
    with pytest.raises(RecipeError, match="held_out: is for min_psnr and min_ssim"):
        recording.plan(SENSITIVE, held_out=[lambda: torch.ones(2)])
