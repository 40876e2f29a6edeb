"""The loop that looks for faster knobs, with what is timed made up: no kernel is built, and there is no GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.kernels import kernels_of
from sparsecc.codegen.cuda.target import Target
from sparsecc.codegen.cuda.task import Task
from sparsecc.codegen.cuda.tuning import Collector, Tuner
from sparsecc.codegen.tuning.records import Known, Records
from sparsecc.codegen.tuning.tuner import Budget
from sparsecc.errors import SparseccError
from sparsecc.timing import Spread

HERE = Target(("sm_90a",), "NVIDIA H200")
SPEC = LinearSpec("int4 g128", 512, 512, 0)


@pytest.fixture
def found() -> Collector:
    collector = Collector()
    numbers = torch.randint(-8, 8, (512, 512), dtype=torch.int8)
    for _ in range(3):  # three layers alike
        assert collector.choose(SPEC, Weights(numbers, torch.ones(512, 4)), 1).plan is None
    assert list(collector.layers.values()) == [3] and list(collector.packed) == [SPEC]
    return collector


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Task, Any]]:
    """What was timed: the third candidate of a task is the fastest, the second cannot run."""
    asked: list[tuple[Task, Any]] = []

    def timed(self: Tuner, task: Task, knobs: Any) -> Spread:
        asked.append((task, knobs))
        number = sum(other == task for other, _ in asked)
        if number == 2:
            raise SparseccError("too many registers\nand more")
        return Spread.of([5.0 if number == 3 else 10.0])

    monkeypatch.setattr(Tuner, "_timed", timed)
    return asked


def tasks() -> list[Task]:
    return [Task(name, replace(SPEC, tokens=tokens)) for name, kernel in kernels_of(SPEC.form).items() for tokens in kernel.tokens]


def test_every_task_has_a_turn_and_what_is_known_is_not_measured_again(
    found: Collector, asked: list[tuple[Task, Any]], tmp_path: Path
) -> None:
    count = len(tasks())
    with Records(tmp_path / "gpu.db", HERE, "write") as records:
        result = Tuner(found, records, HERE, Builder(), Budget(trials=3 * count), 0).run()
        assert [task for task, _ in asked] == tasks() * 3
        assert result.measured == 3 * count and {row.failures for row in result.tasks} == {1}
        assert (result.untuned_us, result.tuned_us) == (30.0, 15.0)  # three layers with one token
        again = Tuner(found, records, HERE, Builder(), Budget(trials=3 * count), 0).run()
        assert again.measured == 0 and again.tuned_us == 15.0


def test_what_a_device_has_shown_holds_for_its_architecture(found: Collector, asked: list[tuple[Task, Any]], tmp_path: Path) -> None:
    with Records(tmp_path / "gpu.db", HERE, "write") as records:
        Tuner(found, records, HERE, Builder(), Budget(trials=3 * len(tasks())), 0).run()
    best = {task: Known(knobs, 5.0) for number, (task, knobs) in enumerate(asked) if number >= 2 * len(tasks())}
    for target in (HERE, Target(("sm_90a",)), Target(("sm_90a", "sm_80"))):
        with Records(tmp_path / "gpu.db", target, "read") as records:
            assert records.best() == best
    for target in (Target(("sm_80",)), Target(("sm_90a",), "NVIDIA H100")):
        with Records(tmp_path / "gpu.db", target, "read") as records:
            assert records.best() == {}


def test_a_chooser_without_a_gpu_takes_what_records_know(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[LinearSpec, Any]] = []
    monkeypatch.setattr(Builder, "linear", lambda self, kernel, spec, knobs, row: built.append((spec, knobs)))
    monkeypatch.setattr(Builder, "expand", lambda *_: None)
    task = tasks()[0]
    last = kernels_of(SPEC.form)[task.kernel].space(task.spec, _row())[-1]
    chooser = Chooser(Target(("sm_90a",)), Builder(), measure=False, known={task: Known(last, 1.0)})
    choice = chooser.choose(SPEC, Weights(torch.empty(0)), 1)
    assert (task.spec, last) in built
    assert choice.reason == f"not measured: there is no GPU here; knobs by the records for {task.spec.tokens} tokens"


def _row() -> Any:
    from sparsecc.codegen.cuda.arch import arch

    return arch("sm_90a")
