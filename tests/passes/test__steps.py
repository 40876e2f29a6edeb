"""Maps for parts of the denoising steps, told apart by a model's timestep."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsecc.attention.base import BlockMap, required
from sparsecc.attention.plan import Plan
from sparsecc.calibration.context import Context
from sparsecc.calibration.outputs import Outputs
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.passes.reorder_tokens import ReorderTokens, plan_of
from sparsecc.recipe import Recipe
from tests.laws.hosts import HOSTS
from tests.passes.attending import BLOCK, GRID, image, stepping

every_host = pytest.mark.parametrize("host", HOSTS)
EARLY, LATE = (0.0, 0.5), (0.5, 1.0)


def sample(seed: int, timestep: float) -> tuple[torch.Tensor, torch.Tensor]:
    return image(seed), torch.tensor([float(timestep)])


SAMPLES = [sample(1, 900), sample(2, 700), sample(1, 200), sample(2, 100)]
OTHERS = {EARLY: [sample(5, 800)], LATE: [sample(5, 150)]}


def step(**fields: Any) -> ReorderTokens:
    given: dict[str, Any] = {"timestep": "timestep", "schedule": (1000.0, 0.0), "steps": 2, "density": 0.3}
    return ReorderTokens(grid=GRID, block=BLOCK, **{**given, **fields})


@cache
def plan(host: str, **fields: Any) -> Plan:
    return step(**fields).calibrate(stepping(host), Context(calibration=SAMPLES))


@cache
def rewritten(host: str, **fields: Any) -> Graph:
    return step(**fields).apply(stepping(host), Context(calibration=SAMPLES)).graph


def density(of: Plan, part: tuple[float, float]) -> float:
    """Of both layers."""
    maps = of.at(part[0])
    return (sum(found.density for found in maps.values()) + 2 - len(maps)) / 2


def same(one: dict[str, BlockMap], other: dict[str, BlockMap]) -> bool:
    return one.keys() == other.keys() and all(found.same_as(other[name]) for name, found in one.items())


@every_host
@pytest.mark.parametrize("fields", [{}, {"allocation": "sensitivity"}, {"density": None, "min_psnr": 30.0}], ids=str)
def test_a_graph_gets_the_maps_of_one_part_and_the_plan_has_all(host: str, fields: dict[str, Any], tmp_path: Path) -> None:
    whole = plan(host, **fields)
    assert whole.parts == [EARLY, LATE]
    whole.save(tmp_path / "plan.json")
    for part in (EARLY, LATE):
        made = plan_of(rewritten(host, **fields, plan_step=part[0]))
        assert same(made.maps, whole.at(part[0])) and made.model == whole.model
        again = ReorderTokens(plan=str(tmp_path / "plan.json"), plan_step=part[0] + 0.2).apply(stepping(host), Context())
        assert same(plan_of(again.graph).maps, whole.at(part[0]))


def test_each_part_is_calibrated_on_its_own_inputs_alone() -> None:
    for part, its in ((EARLY, SAMPLES[:2]), (LATE, SAMPLES[2:])):
        alone = ReorderTokens(grid=GRID, block=BLOCK, density=0.3).apply(stepping("fx"), Context(calibration=its))
        assert same(plan_of(alone.graph).maps, plan("fx").at(part[0]))
    assert not same(plan("fx").at(0), plan("fx").at(0.5))


@every_host
def test_parts_that_lose_much_keep_more_and_all_together_the_density(host: str) -> None:
    shared = plan(host, allocation="sensitivity")
    early, late = (density(shared, part) for part in (EARLY, LATE))
    assert late > 2 * early
    assert 0.29 < (early + late) / 2 <= 0.3
    for planned in shared.planned:
        assert planned.map.keep[:, required(planned.map.grid, BLOCK)].all()


@every_host
def test_a_run_loses_less_than_with_the_same_everywhere(host: str) -> None:
    lost: dict[str, float] = {}
    for allocation in ("uniform", "sensitivity"):
        errors = [
            Outputs(stepping(host), OTHERS[part]).error(rewritten(host, allocation=allocation, plan_step=part[0])) for part in (EARLY, LATE)
        ]
        lost[allocation] = sum(errors)
    assert lost["sensitivity"] < lost["uniform"]


def test_a_short_part_is_weighted_by_its_length() -> None:
    shared = plan("fx", allocation="sensitivity", steps=((0.0, 0.8), (0.8, 1.0)))
    early, late = density(shared, (0.0, 0.8)), density(shared, (0.8, 1.0))
    assert 0.8 * early + 0.2 * late == pytest.approx(0.3, abs=0.005)
    assert early < 0.3 < late


def test_parts_whose_inputs_are_alike_have_the_same_maps() -> None:
    alike = [sample(1, 900), sample(1, 200)]
    found = step(allocation="sensitivity").calibrate(stepping("fx", changes=False), Context(calibration=alike))
    assert same(found.at(0), found.at(0.5))
    assert 0.29 < density(found, EARLY) <= 0.3


def test_what_keeps_everything_in_a_part_is_dense_there() -> None:
    """A density that has room for one part whole."""
    shared = plan("fx", allocation="sensitivity", density=0.97)
    left_out = [name for name in plan("fx").sites for part in (EARLY, LATE) if name not in shared.at(part[0])]
    assert left_out
    [match, *_] = step(allocation="sensitivity", density=1.0, plan_step=0.6).apply(stepping("fx"), Context(calibration=SAMPLES)).matches
    assert match.refused is not None
    assert match.refused.reason == "sensitivity keeps all of its blocks: other layers lose less by leaving out theirs"


def test_a_floor_holds_in_each_part() -> None:
    floors = plan("fx", density=None, min_psnr=30.0)
    assert density(floors, EARLY) < density(floors, LATE)


def test_steps_in_no_part_stay_dense() -> None:
    parts = ((0.5, 1.0),)
    assert plan("fx", steps=parts).parts == [EARLY, LATE] and plan("fx", steps=parts).at(0.2) == {}
    result = step(steps=parts, plan_step=0.2).apply(stepping("fx"), Context(calibration=SAMPLES))
    assert not result.modified
    assert {match.refused.reason for match in result.matches if match.refused} == {"step 0.2 is in no part of the schedule that has maps"}
    assert same(plan_of(rewritten("fx", steps=parts)).maps, plan("fx").at(0.5))


def test_without_parts_a_plan_is_what_the_graph_holds() -> None:
    fixed = ReorderTokens(pattern="sliding_window", block=BLOCK)
    assert same(fixed.calibrate(stepping("fx")).maps, plan_of(fixed.apply(stepping("fx")).graph).maps)
    once = ReorderTokens(grid=GRID, block=BLOCK, allocation="sensitivity", density=0.3)
    context = Context(calibration=SAMPLES)
    assert same(once.calibrate(stepping("fx"), context).maps, plan_of(once.apply(stepping("fx"), context).graph).maps)


def test_recipes_name_parts_as_lists() -> None:
    fields = {"grid": [1, 12, 12], "timestep": "t", "schedule": [1000, 0], "steps": [[0.2, 0.5], [0.5, 1]], "plan_step": 0.5}
    [read] = Recipe.load({"passes": [{"reorder_tokens": fields}]}).passes
    line = "reorder_tokens{grid=[1,12,12],timestep=t,schedule=[1000,0],steps=[[0.2,0.5],[0.5,1]],plan_step=0.5}"
    assert Recipe.load(line).passes == (read,)
    assert isinstance(read, ReorderTokens) and read.steps == ((0.2, 0.5), (0.5, 1.0))
    with pytest.raises(RecipeError, match=r"reorder_tokens\.steps: 0\.5 to 0\.2 is no part of the schedule"):
        Recipe.load({"passes": [{"reorder_tokens": {**fields, "steps": [[0.5, 0.2]]}}]})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"timestep": "time"}, "timestep: the model has no input 'time'; did you mean 'timestep'"),
        ({"steps": 3}, "steps: no calibration input has a timestep in the part from 0.333333 to 0.666667 of the schedule"),
        ({"schedule": (500.0, 0.0)}, "timestep: calibration input 0 has the timestep 900, the schedule goes from 500 to 0"),
    ],
)
def test_inputs_that_are_in_no_part(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=f"^{said}"):
        step(**fields).calibrate(stepping("fx"), Context(calibration=SAMPLES))


def test_inputs_may_be_given_by_name_and_a_batch_is_in_one_part() -> None:
    named = [{"x": x, "timestep": timestep} for x, timestep in SAMPLES]
    found = step().calibrate(stepping("fx"), Context(calibration=named))
    assert all(same(found.at(part[0]), plan("fx").at(part[0])) for part in (EARLY, LATE))
    with pytest.raises(RecipeError, match=r"^timestep: calibration input 0 has timesteps in several parts of the schedule"):
        step().calibrate(stepping("fx"), Context(calibration=[(image(0), torch.tensor([900.0, 100.0]))]))


def test_what_has_to_be_given() -> None:
    for apply in (step(plan_step=0.1).apply, step().calibrate):
        with pytest.raises(RecipeError, match=r"^plan: missing, so that calibration inputs are needed"):
            apply(stepping("fx"), Context())
    with pytest.raises(RecipeError, match=r"^plan_step: missing; a model has one map for each attention"):
        rewritten("fx")
    with pytest.raises(RecipeError, match=r"^timestep: missing; name the model's input"):
        step(timestep=None)
    with pytest.raises(RecipeError, match=r"^schedule: give the timesteps at the begin and the end of a run"):
        step(schedule=())
    with pytest.raises(RecipeError, match=r"^plan: its maps are chosen already; leave timestep out"):
        ReorderTokens(plan="plan.json", timestep="t", schedule=(1.0, 0.0))
    with pytest.raises(RecipeError, match=r"^timestep: not for block_topk, which chooses blocks in each call"):
        step(pattern="block_topk")
    window = ReorderTokens(pattern="sliding_window", block=BLOCK, timestep="timestep", schedule=(1000.0, 0.0))
    with pytest.raises(RecipeError, match=r"^timestep: needs calibration inputs to be judged by"):
        window.calibrate(stepping("fx"))
    with pytest.raises(RecipeError, match=r"^plan: its maps are chosen already; leave it out"):
        ReorderTokens(plan="plan.json").calibrate(stepping("fx"))
