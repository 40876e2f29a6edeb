from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ladder import kernels
from benchmarks.ladder.kernels import Case
from benchmarks.ladder.specs import ASIDE, Linear, Subject
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.measurer import Job
from sparsecc.codegen.tuning.records import Outcome, Records
from tests.codegen.tuning.tasks import HERE, cost, us

SUBJECT = Subject("row_block_spmm", Linear(64, 96, 64), "float32", "4x1", 0.5)
OTHER = Subject("row_block_spmm", Linear(96, 96, 64), "float32", "4x1", 0.5)


def test_twenty_specs_of_different_kinds() -> None:
    assert len(ASIDE) == 20 == len({subject.name for subject in ASIDE})
    assert len({(subject.kernel, subject.dtype, subject.pattern, type(subject.layer)) for subject in ASIDE}) >= 15


@pytest.mark.parametrize("subject", [subject for subject in ASIDE if subject.pattern != "dense"], ids=str)
def test_weights_have_the_zeros_that_the_name_says(subject: Subject, tmp_path: Path) -> None:
    task, path = subject.task(tmp_path, HERE)
    assert path is not None and task.structure is not None
    matrix = np.load(path)
    assert matrix.shape == (task.spec.rows, task.spec.depth)
    assert matrix.dtype == ("int8" if subject.dtype == "int8" else "float32")
    assert abs((matrix == 0).mean() - subject.zeros) < 0.005
    assert abs(task.structure.density - (1 - subject.zeros)) <= 0.01
    assert task.structure.block_rows == {"4x1": 4, "16x1": 16}.get(subject.pattern, 1)
    assert task.space(HERE)


def test_candidates_are_all_or_drawn_with_the_default_first() -> None:
    with tempfile.TemporaryDirectory() as folder:
        every, some, again = (Case.of(SUBJECT, Path(folder), HERE, cap, 0) for cap in (10_000, 20, 20))
    space = every.task.space(HERE)
    assert every.candidates == space and every.space == len(space) and every.trials == round(len(space) / 10)
    assert some.candidates == again.candidates and len(set(some.candidates)) == 20 and some.trials == 2
    assert some.candidates[0] == space[0]


def test_the_tuner_learns_of_the_other_specs_alone(tmp_path: Path) -> None:
    asked: list[tuple[Task, Knobs]] = []

    def measure(job: Job) -> Outcome:
        asked.append((job.task, job.knobs))
        return us(cost(job.task, job.knobs))

    case, other = (Case.of(subject, tmp_path, HERE, 60, 0) for subject in (SUBJECT, OTHER))
    with Records(tmp_path / "all.db", HERE, "write") as records:
        for one in (case, other):
            kernels.exhaust(one, records, measure)
        assert {task: len(found) for task, found in records.all().items()} == {case.task: 60, other.task: 60}
        before = len(asked)
        kernels.exhaust(case, records, measure)
        assert len(asked) == before == 120, "nothing is measured twice"
    knobs, learned_from = kernels.tuned_knobs(case, tmp_path / "all.db", tmp_path / "own.db", measure, HERE, 0)
    assert learned_from == 60
    assert [task for task, _ in asked[120:]] == [case.task] * case.trials
    assert cost(case.task, knobs) <= min(cost(case.task, one) for one in case.candidates)


def found(default: float, tuned: float, measured: int = 200) -> dict[str, object]:
    us = {"default": 11.0, "tuned": 10.2, "best": 10.0}
    row = {"name": "4x1 50% float32", "kernel": "row_block_spmm", "space": 500, "measured": measured, "failures": 0, "trials": 20}
    return row | {"us": us, "knobs": dict.fromkeys(us, "4x64"), "default": default, "tuned": tuned, "median": 0.8}


def test_the_table_says_what_was_missed_and_what_was_drawn() -> None:
    rows = [found(0.15, 0.05), found(0.16, 0.0), found(0.1, 0.06, measured=500)]
    lines = kernels.markdown({"threads": 2, "cap": 200, "rows": rows}).splitlines()
    assert [line.split(" | ")[-1] for line in lines[-3:]] == ["reached |", "missed |", "missed |"]
    assert [line.split(" | ")[2] for line in lines[-3:]] == ["200 of 500", "200 of 500", "all 500"]
    assert "Found: default 15.0% in the median and 16.0% at worst, tuned 5.0% in the median and 6.0% at worst." in lines[0]
    assert kernels.summary(rows[1]) == "4x1 50% float32: default 16.0%, tuned 0.0% from the best of 200"
    words = "default 15.0% in the median and 16.0% at worst, tuned 5.0% in the median and 6.0% at worst; 1 of 3 within both"
    assert kernels.verdict(rows) == (words, False) and kernels.verdict(rows[:1])[1]
