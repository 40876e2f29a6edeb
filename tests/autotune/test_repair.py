from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsecc.autotune.repair import Repair, repairable, unrepaired
from sparsecc.autotune.rungs import Rung
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.passes.recover import Recover
from sparsecc.recipe import Recipe


@pytest.mark.parametrize(
    ("rung", "left"),
    [
        ("dense", "dense"),
        ("int8", "int8"),
        ("low_rank 25%", "low_rank 25%"),
        ("2:4", "dense"),
        ("int8 1x4 60%", "int8"),
        ("bfloat16 narrow 25%", "bfloat16"),
    ],
)
def test_what_no_recovery_mends(rung: str, left: str) -> None:
    assert str(unrepaired(Rung.parse(rung))) == left
    assert repairable(Rung.parse(rung)) == (rung != left)


def test_passes_name_all_that_makes_the_model() -> None:
    graph = FxGraph.from_module(nn.Linear(4, 4), (torch.zeros(1, 4),))
    repair = Repair.of(graph, "sparsegpt").lasting(120)
    assert repair.prune == {"criterion": "alps"} and Repair.of(graph, "wanda").prune == {"criterion": "wanda"}
    (step,) = Recipe.load({"passes": repair.passes()}).passes
    assert isinstance(step, Recover)
    assert (step.method, step.steps, step.learning_rate, step.checkpoint) == ("distillation", 120, 3e-4, None)
    assert step.unchanged and step.dtype == "float32" and Repair.of(graph, "alps", ["int8", "bfloat16"]).dtype == "bfloat16"
    assert repair.passes("a.safetensors")[0]["recover"]["checkpoint"] == "a.safetensors"


def test_more_steps_are_expected_to_leave_less() -> None:
    shares = [Repair("distillation", "alps", steps).expected for steps in (50, 200, 1000, 3000, 30000)]
    assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[0] < 1
    assert Repair("reconstruction", "alps").expected == 0.5
