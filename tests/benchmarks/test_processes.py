"""Engines in processes of their own: what they answer, that they take turns, and what is said of one that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import Call, Workload
from benchmarks.processes import answers, each_started, in_turns, started

WORK = Workload("double", Path("none.onnx"), {"x": np.full(2, 7, np.float32)})


@dataclass(frozen=True)
class Times:
    """An engine that gives the same memory each time, as OpenVINO does."""

    factor: float

    @property
    def name(self) -> str:
        return f"times {self.factor:g}"

    def load(self, workload: Workload, threads: int) -> Call:
        if not self.factor:
            raise ValueError("nothing is no factor")
        shared = np.empty(2, np.float32)

        def call() -> Sequence[np.ndarray]:
            np.multiply(workload.inputs["x"], self.factor, out=shared)
            return [shared]

        return call


def test_an_engine_answers_and_takes_turns() -> None:
    samples = [{"x": np.full(2, i, np.float32)} for i in range(3)]
    with each_started([[Times(2)], [Times(3), Times(4)]], WORK, 1) as (first, others):
        assert [y.tolist() for [y] in first.answers("times 2", samples)] == [[0, 0], [2, 2], [4, 4]]
        assert others.answers("times 4", [WORK.inputs])[0][0].tolist() == [28, 28]
        timings = in_turns([first, others], 0.0)
    assert list(timings) == ["times 2", "times 3", "times 4"]
    assert {len(timing.seconds) for timing in timings.values()} == {3} and all(min(one.seconds) > 0 for one in timings.values())


def test_one_that_cannot_be_loaded_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="times 0: ValueError: nothing is no factor"), started([Times(0)], WORK, 1):
        pass


def test_samples_are_taken_out_of_the_inputs_again() -> None:
    given = {"x": np.full(2, 7, np.float32)}
    call = Times(2).load(Workload("double", Path("none.onnx"), given), 1)
    assert [y.tolist() for [y] in answers(call, given, [{"x": np.zeros(2)}, {"x": np.ones(2)}])] == [[0, 0], [2, 2]]
    assert given["x"].tolist() == [7, 7]
