"""`sparsecc.plan`: the maps of all parts of the steps. docs/how-it-works/plans.md compiles by them, and is tested."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sparsecc
from sparsecc.errors import InputError, RecipeError
from tests.passes.attending import Stepping, image

INPUTS = (image(0), torch.tensor([500.0]))
CALIBRATION = [(image(1), torch.tensor([900.0])), (image(2), torch.tensor([200.0]))]
STEPS: dict[str, Any] = {"timestep": "timestep", "schedule": [1000, 0], "steps": 2}
REORDER: dict[str, Any] = {"grid": [1, 12, 12], "block": 12, "density": 0.3, "allocation": "sensitivity", **STEPS}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return Stepping().eval()


def recipe(**fields: Any) -> dict[str, Any]:
    return {"passes": [{"reorder_tokens": {**REORDER, **fields}}]}


def test_passes_before_it_are_run_and_those_after_it_are_not() -> None:
    idle, reorder = {"pack": {}}, recipe()["passes"]  # no weight has zeros
    alone = sparsecc.plan(model(), INPUTS, recipe=recipe(), calibration=CALIBRATION)
    after = sparsecc.plan(model(), INPUTS, recipe={"passes": [*reorder, idle], "strict": True}, calibration=CALIBRATION)
    assert alone.parts == [(0.0, 0.5), (0.5, 1.0)]
    assert all(one.map.same_as(other.map) for one, other in zip(alone.planned, after.planned, strict=True))
    with pytest.raises(RecipeError, match=r"^recipe: passes\[0\]\.pack changed nothing"):
        sparsecc.plan(model(), INPUTS, recipe={"passes": [idle, *reorder], "strict": True}, calibration=CALIBRATION)


def test_what_is_wrong_is_named_by_its_place() -> None:
    with pytest.raises(RecipeError, match=r"^recipe: passes\[0\]\.reorder_tokens\.timestep: the model has no input 't'"):
        sparsecc.plan(model(), INPUTS, recipe=recipe(timestep="t"), calibration=CALIBRATION)
    with pytest.raises(RecipeError, match=r"^recipe: passes\[0\]\.reorder_tokens\.plan: missing, so that calibration inputs are needed"):
        sparsecc.plan(model(), INPUTS, recipe=recipe())
    with pytest.raises(RecipeError, match=r"^recipe: a plan is made by one reorder_tokens, here are 0"):
        sparsecc.plan(model(), INPUTS, recipe={"passes": []})
    with pytest.raises(InputError, match=r"^calibration, sample 0: input 'timestep'"):
        sparsecc.plan(model(), INPUTS, recipe=recipe(), calibration=[(image(1), torch.tensor([1, 2]))])
