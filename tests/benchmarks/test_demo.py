"""What the demo prints, on made-up numbers."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.demo import BASELINE, Stage


@pytest.fixture
def stage() -> Stage:
    return Stage(Console(file=io.StringIO(), width=120), threads=1, seconds=0.01)


def printed(stage: Stage) -> str:
    assert isinstance(stage.console.file, io.StringIO)
    return stage.console.file.getvalue()


@pytest.mark.parametrize(("error", "failures"), [(1e-6, 0), (2e-3, 1), (float("nan"), 1)])
def test_a_check_that_does_not_hold_counts(stage: Stage, error: float, failures: int) -> None:
    stage.check("compiled", error)
    assert stage.failures == failures
    assert ("✗" in printed(stage)) == bool(failures)


def test_a_step_says_when_it_is_done_and_only_then(stage: Stage) -> None:
    with stage.step("compile"):
        assert "✓" not in printed(stage)
    assert "✓ compile" in printed(stage)


def test_sizes_are_compared_with_the_first(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 250_000)
    stage.sizes({"dense": 1_000_000, "packed": tmp_path / "small"})
    line = next(line for line in printed(stage).splitlines() if "packed" in line)
    assert "25%" in line


def test_a_race_names_every_engine(stage: Stage) -> None:
    stage.race({BASELINE: list, "sparsecc": list})
    assert BASELINE in printed(stage) and "sparsecc" in printed(stage)
