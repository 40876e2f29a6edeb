"""Variants are recipes, what is judged is what is timed, and the table marks the frontier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch import nn

from benchmarks.accuracy import pareto
from benchmarks.accuracy.frontier import Axis
from benchmarks.accuracy.pareto import VARIANTS, Variant
from benchmarks.accuracy.subjects import SUBJECTS, Case, Subject
from benchmarks.peers import Workload
from sparsecc.recipe import Recipe


@pytest.fixture
def case(tmp_path: Any) -> Case:
    work = Workload("double", tmp_path / "none.onnx", {"x": np.zeros(2, np.float32)}, nn.Identity())
    held_out = [{"x": np.full(2, i, np.float32)} for i in range(3)]
    return Case(work, [], held_out, lambda outputs, dense: float(np.abs(np.subtract(outputs, dense)).max()), {"targets": ["0"]})


def test_every_variant_is_a_recipe_with_a_name_of_its_own(case: Case) -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    for variant in VARIANTS:
        learning = [step["recover"]["method"] for step in variant.recipe(case, steps=5)["passes"] if "recover" in step]
        assert Recipe.load(variant.recipe(case, steps=5)) and learning == ["blocks"] * (variant.pattern is not None)
        onnx = replace(case, work=replace(case.work, module=None))
        assert {"recover": {"targets": ["0"]}} in variant.recipe(onnx, steps=5)["passes"] or variant.pattern is None
    assert Variant().recipe(case, steps=5) == {"passes": []}
    assert Variant("1x4", 0.7, int8=True).name == "int8 1x4 70%"


class Answering:
    """Stands for a process with two engines."""

    names = ("onnxruntime", "other")

    def answers(self, name: str, samples: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
        return [[2 * sample["x"] + 0.5 * (name == "other"), np.zeros(3)] for sample in samples]


def test_an_engine_is_judged_on_the_inputs_held_out(case: Case) -> None:
    process: Any = Answering()
    assert [y.tolist() for y in pareto.answers(process, "onnxruntime", case.held_out)] == [[0, 0], [2, 2], [4, 4]]
    assert pareto.judged(case, [process]) == {"onnxruntime": 0.0, "other": 0.5}


def test_a_recipe_in_a_line() -> None:
    passes = [
        {"prune": {"targets": ["a", "b"], "pattern": "1x4", "sparsity": 0.6, "criterion": "alps"}},
        {"prune": {"pattern": "2:4"}},
        {"substitute": {"targets": ["c"], "structure": "low_rank", "params": 0.25}},
        {"quantize": {"targets": ["a"], "dtype": "int8"}},
        {"pack": {}},
    ]
    assert pareto.layers({"passes": passes}) == "prune 1x4 60% on 2, prune 2:4, substitute low_rank 25% on 1, quantize int8 on 1"
    assert pareto.layers(None) == ""


def test_rows_become_points_and_lines() -> None:
    spread = {"median": 1.0, "p10": 0.9, "p90": 1.1}

    def row(name: str, time: float, quality: float, seconds: float | None) -> dict[str, Any]:
        return {
            "name": name,
            "ms": spread,
            "time": spread | {"median": time},
            "quality": quality,
            "seconds": seconds,
            "recipe": {"passes": []},
        }

    rows = [
        row("onnxruntime", 1.0, 1.0, None),
        row("openvino f32", 0.9, 1.0, None),
        row("openvino int8 bf16", 0.4, 0.97, None),
        row("sparsecc int8 1x4 50%", 0.3, 0.98, 40.0),
    ]
    document = {"threads": 2, "samples": 8, "held_out": 9, "steps": 0, "minutes": 30, "seed": 0, "rows": rows}
    assert [(p.label, p.engine, p.dtype) for p in pareto.points(document)] == [
        ("onnxruntime", "onnxruntime", "float32"),
        ("openvino", "openvino", "float32"),
        ("openvino int8 bf16", "openvino", "int8"),
        ("int8 1x4 50%", "sparsecc", "int8"),
    ]
    axis = Axis("mean cosine", ".2f", lower_is_better=False, shown=0.7)
    subject = Subject("A model", axis, SUBJECTS["vit"].load, True, SUBJECTS["vit"].full, SUBJECTS["vit"].quick)
    lines = pareto.markdown(subject, document).splitlines()
    assert [line.split("|")[6].strip() for line in lines[4:]] == ["", "yes", "", "yes"]
    assert "least squares" in lines[0] and "takes 5 steps" in pareto.markdown(subject, document | {"steps": 5})
