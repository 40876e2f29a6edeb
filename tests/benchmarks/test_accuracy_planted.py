"""The planted problems are what they are said to be, and criteria find in them what the truth implies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.accuracy import planted as bench
from benchmarks.accuracy.planted import PATTERNS, Planted, plant, pruned
from sparsecc import patterns, registry

SMALL = {"rows": 32, "cols": 128, "tokens": 1024}


@pytest.fixture(scope="module", params=PATTERNS)
def pattern(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def problem(pattern: str) -> Planted:
    return plant(pattern, seed=0, **SMALL)


def test_half_is_planted_in_the_pattern(pattern: str, problem: Planted) -> None:
    keep = problem.planted != 0
    assert int(keep.count_nonzero()) == keep.numel() // 2
    assert patterns.parse(pattern).holds(keep) is None
    assert int(problem.weight.count_nonzero()) == problem.weight.numel()


def test_the_dense_layer_is_the_best_for_its_outputs(problem: Planted) -> None:
    """What it has beside the planted weights is noise of unit size in its outputs: `cols` degrees of freedom of `tokens` for each."""
    apart = problem.inputs @ (problem.weight - problem.planted).T
    assert float(apart.square().mean()) == pytest.approx(SMALL["cols"] / SMALL["tokens"], rel=0.1)


def test_every_planted_weight_is_missed_equally(problem: Planted) -> None:
    inverse = torch.linalg.inv(problem.inputs.double().T @ problem.inputs.double())
    size = (problem.planted.double() / inverse.diagonal().sqrt()).abs()[problem.planted != 0]
    assert float(size.min()) > 0.99 * bench.LEAST and float(size.max()) < 1.01 * bench.MOST
    heard = (problem.planted * problem.inputs.norm(dim=0)).abs()[problem.planted != 0]
    assert float(heard.max()) > 3 * float(heard.min())  # which norms alone do not tell


def test_share_found_by_hand() -> None:
    problem = Planted(torch.ones(1, 4), torch.tensor([[1.0, 0.0, 2.0, 0.0]]), torch.eye(4))
    assert problem.found(torch.tensor([[True, True, False, False]])) == 0.5
    assert problem.error(torch.tensor([[1.0, 0.0, 0.0, 0.0]])) == pytest.approx((4 / 5) ** 0.5)


def test_who_knows_more_of_the_inputs_finds_more(pattern: str, problem: Planted) -> None:
    found = {name: problem.found(pruned(problem, pattern, name) != 0) for name in ("random", "magnitude", "wanda", "sparsegpt")}
    assert found["random"] == pytest.approx(0.5, abs=0.05)
    assert found["random"] < found["magnitude"] < found["wanda"] < found["sparsegpt"]
    assert found["sparsegpt"] > 0.85


def test_every_criterion_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "plant", lambda pattern, seed: plant(pattern, seed, rows=16, cols=32, tokens=128))
    document = bench.measured(registry.members("criteria"), ["2:4"], 1, Console(quiet=True))
    assert [row["criterion"] for row in document["rows"]] == registry.members("criteria")
    for row in document["rows"]:
        assert row["refused"] or (0 < row["found"] <= 1 and row["error"] >= 0)
    assert len(bench.markdown(document).splitlines()) == 4 + len(document["rows"])


def test_promises() -> None:
    rows: list[dict[str, Any]] = [
        {"pattern": "2:4", "criterion": name, "found": found} for name, found in (("magnitude", 0.7), ("wanda", 0.8), ("sparsegpt", 0.8))
    ]
    bench._promise(rows)
    assert [row["reached"] for row in rows] == [None, True, False]
