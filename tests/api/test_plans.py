"""`sparsecc.plan`: the maps of all parts of the steps. docs/how-it-works/plans.md compiles by them, and is tested."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsecc
from sparsecc.attention.plan import Plan
from sparsecc.errors import InputError, RecipeError
from sparsecc.passes.reorder_tokens import ReorderTokens
from tests.passes.attending import Stepping, image, stepping
from tools.reference import DOCS

INPUTS = (image(0), torch.tensor([500.0]))
CALIBRATION = [(image(1), torch.tensor([900.0])), (image(2), torch.tensor([200.0]))]
STEPS: dict[str, Any] = {"timestep": "timestep", "schedule": [1000, 0], "steps": 2}
REORDER: dict[str, Any] = {"grid": [1, 12, 12], "block": 12, "density": 0.3, "allocation": "sensitivity", **STEPS}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return Stepping().eval()


def recipe(**fields: Any) -> dict[str, Any]:
    return {"passes": [{"reorder_tokens": {**REORDER, **fields}}]}


def test_the_page_makes_a_plan_and_compiles_once_for_each_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its code, on a small model; each step is what the plan's maps give."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", (DOCS / "how-it-works/plans.md").read_text(), re.MULTILINE | re.DOTALL))
    for said, small in (("[13, 30, 45]", "[1, 12, 12]"), ('"text_tokens": 226', '"block": 12')):
        assert code.count(said) == 1
        code = code.replace(said, small)
    monkeypatch.chdir(tmp_path)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(x: Tensor, velocity: Tensor, timestep: Tensor) -> Tensor:
        steps.append((x, velocity, timestep))
        return x - 0.1 * velocity

    timesteps = [torch.tensor([timestep]) for timestep in (1000.0, 750.0, 500.0, 250.0)]
    exec(
        code, {"module": model(), "example_inputs": INPUTS, "samples": CALIBRATION, "timesteps": timesteps, "x": image(3), "update": update}
    )
    assert len(Plan.load("video.json").parts) == 2
    for step, (x, velocity, timestep) in enumerate(steps):
        [expected] = ReorderTokens(plan="video.json", plan_step=step / 4).apply(stepping("fx")).graph.run((x, timestep)).outputs
        assert (velocity - expected).abs().max() < 1e-4 * expected.abs().max()


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
