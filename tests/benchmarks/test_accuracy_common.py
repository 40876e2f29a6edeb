"""Rows, what they share, promises and the table, on one small layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from benchmarks.accuracy import common
from benchmarks.accuracy.common import Evaluation, Row, Sizes, Subject
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.passes.prune import Prune
from sparsecc.recipe import Recipe

SCOPE = {"targets": ["0"], "ignore": ["1"]}
ROWS = (
    Row(None),
    Row("unstructured", 0.5, "random", "erk"),
    Row("2:4", criterion="magnitude"),
    Row("2:4", criterion="magnitude", method="reconstruction", within=0.5),
    Row("2:4", criterion="magnitude", method="distillation"),
)


@pytest.fixture
def inputs() -> torch.Tensor:
    """64 numbers that 16 say: what is left of the weights can make up for the rest."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(96, 16, generator=generator) @ torch.randn(16, 64, generator=generator) / 4


@pytest.fixture
def evaluation(inputs: torch.Tensor) -> Evaluation:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16)).eval().requires_grad_(False)
    graph = FxGraph.from_module(module, (inputs[:8],))
    dense = graph.run((inputs,)).outputs[0]

    def figures(rewritten: Graph) -> dict[str, float]:
        return {"error": float((rewritten.run((inputs,)).outputs[0] - dense).norm() / dense.norm())}

    def load(sizes: Sizes) -> Subject:
        return Subject(graph, [(part,) for part in inputs[: sizes.samples].split(8)], figures, SCOPE)

    return Evaluation(
        name="layer",
        about="A layer, {samples} inputs, {steps} steps",
        rows=ROWS,
        load=load,
        figures={"error": ".2f"},
        lower_is_better=True,
        full=Sizes(samples=64, held_out=8, steps=20),
        quick=Sizes(samples=16, held_out=8, steps=2),
    )


@pytest.fixture
def document(evaluation: Evaluation) -> dict[str, Any]:
    return common.measured(evaluation, ROWS, evaluation.full, Console(quiet=True))


def test_rows_are_recipes_with_names_of_their_own() -> None:
    rows = common.one_shot_and_distilled()
    assert len({row.name for row in rows}) == len(rows) == 1 + 4 * (5 * 2 + 4)
    for row in rows:
        assert len(Recipe.load({"passes": row.passes(steps=5, scope=SCOPE)}).passes) == len(row.passes(5, SCOPE))
    assert Row("unstructured", 0.7, "random", "erk").name == "unstructured 70% by random with erk"
    assert Row("2:4", method="distillation").name == "2:4 by sparsegpt, distillation"
    [step] = Recipe.load({"passes": Row("4x1", 0.5, "wanda").passes(5, SCOPE)}).passes
    assert isinstance(step, Prune) and (step.criterion, step.pattern, step.sparsity, step.ignore) == ("wanda", "4x1", 0.5, ("1",))


def test_the_dense_model_is_itself_and_recovery_comes_nearer(document: dict[str, Any]) -> None:
    dense, _, pruned, rebuilt, distilled = document["rows"]
    assert dense["error"] == 0 and dense["zeros"] == 0
    assert pruned["zeros"] == rebuilt["zeros"] == distilled["zeros"] == pytest.approx(0.5 * 64 * 32 / (64 * 32 + 32 * 16))
    assert rebuilt["error"] < 0.5 * pruned["error"] and distilled["error"] < pruned["error"]


def test_a_promise_is_counted_from_the_dense_model(evaluation: Evaluation) -> None:
    row, dense = Row("2:4", within=0.02), {"error": 0.1}
    assert common.promised(evaluation, Row("2:4"), {"error": 9.0}, dense) == {"limit": None, "reached": None}
    for error, reached in ((0.119, True), (0.121, False)):
        found = common.promised(evaluation, row, {"error": error}, dense)
        assert found == {"limit": pytest.approx(0.12), "reached": reached}
    higher = replace(evaluation, lower_is_better=False)
    assert (
        common.promised(higher, row, {"error": 0.081}, dense)["reached"]
        and not common.promised(higher, row, {"error": 0.079}, dense)["reached"]
    )


def test_the_table_has_a_line_for_each_row(evaluation: Evaluation, document: dict[str, Any]) -> None:
    lines = common.markdown(evaluation, document).splitlines()
    assert lines[0] == "A layer, 64 inputs, 20 steps"
    assert lines[2] == "| weights | error | zeros | seconds | error at most |"
    assert [line.split("|")[1].strip() for line in lines[4:]] == [row.name for row in ROWS]
    assert "0.50 reached" in lines[7]
    nothing_promised = document | {"rows": document["rows"][:2]}
    assert "| weights | error | zeros | seconds |" in common.markdown(evaluation, nothing_promised)


def test_rows_are_chosen_by_a_part_of_their_names() -> None:
    assert common.chosen(ROWS, None) == list(ROWS)
    assert common.chosen(ROWS, ["random", "distillation"]) == [ROWS[0], ROWS[1], ROWS[4]]
    assert common.chosen(ROWS, ["none such"]) == []


def test_quick_and_single_rows_write_nothing(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("benchmarks.results.FOLDER", tmp_path)
    for arguments in (["--quick"], ["--row", "magnitude"]):
        monkeypatch.setattr("sys.argv", ["layer", *arguments])
        assert common.main(evaluation) == 0
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["layer"])
    assert common.main(evaluation) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"accuracy-layer.json", "accuracy-layer.md"}


def test_a_row_that_is_not_there_is_named_with_those_that_are(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["layer", "--row", "none such"])
    with pytest.raises(SystemExit, match="2:4 by magnitude, reconstruction"):
        common.main(evaluation)
