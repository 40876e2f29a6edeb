"""Parts of the denoising steps, and where timesteps lie in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.attention.steps import WHOLE, Schedule, part_with, parts_of, spelt
from sparsecc.errors import RecipeError


@given(st.integers(1, 100), st.integers(1, 200))
def test_every_step_is_in_one_of_equal_parts(count: int, steps: int) -> None:
    parts = parts_of(count)
    assert len(parts) == count
    for step in range(steps):
        inside = [part for part in parts if part[0] <= step / steps < part[1]]
        assert inside == [part_with(parts, step / steps)]


def test_parts_that_are_given_come_in_order_and_leave_steps_out() -> None:
    parts = parts_of([(0.5, 1), (0.2, 0.5)])
    assert parts == ((0.2, 0.5), (0.5, 1.0))
    assert [part_with(parts, step) for step in (0.1, 0.2, 0.5, 1.0)] == [None, (0.2, 0.5), (0.5, 1.0), (0.5, 1.0)]
    assert [spelt(part) for part in (*parts, WHOLE)] == ["steps 0.2 to 0.5", "steps 0.5 to 1", ""]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (0, "0 parts; give 1 to 100"),
        (101, "101 parts; give 1 to 100"),
        ([], "no part of the schedule is named"),
        ([(0.5, 0.2)], "0.5 to 0.2 is no part of the schedule, which goes from 0 to 1"),
        ([(0.5, 0.5)], "0.5 to 0.5 is no part of the schedule"),
        ([(0.5, 1.5)], "0.5 to 1.5 is no part of the schedule"),
        ([(0.4, 1), (0, 0.5)], "two parts have 0.4 in them"),
    ],
)
def test_parts_that_cannot_be(steps: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=f"^steps: {said}"):
        parts_of(steps)


def test_timesteps_fall_or_rise_and_need_not_be_even() -> None:
    assert [Schedule((1000, 0)).fraction(t) for t in (1000, 750, 0)] == [0, 0.25, 1]
    assert [Schedule((0.0, 1.0)).fraction(t) for t in (0.25, 1.0)] == [0.25, 1]
    shifted = Schedule((1000, 900, 700, 400, 0))
    assert [shifted.fraction(t) for t in (1000, 900, 800, 400, 0)] == [0, 0.25, 0.375, 0.75, 1]
    assert shifted.fraction(1001) is None and shifted.fraction(-1) is None


@given(st.integers(1, 60), st.integers(1, 12), st.floats(0.2, 5))
def test_a_step_is_in_the_same_part_by_its_number_and_by_its_timestep_in_float32(steps: int, count: int, shift: float) -> None:
    even = [1 - i / steps for i in range(steps + 1)]
    times = [shift * time / (1 + (shift - 1) * time) for time in even]
    parts = parts_of(count)
    for step, time in enumerate(times[:-1]):
        assert Schedule(tuple(times)).part(float(np.float32(time)), parts) == part_with(parts, step / steps)


@pytest.mark.parametrize(
    ("timesteps", "said"),
    [
        ((), "give the timesteps at the begin and the end of a run"),
        ((1000.0,), "give the timesteps at the begin and the end of a run"),
        ((1000.0, 1000.0), r"\[1000.0, 1000.0\] neither falls nor rises throughout"),
        ((0.0, 500.0, 400.0), "neither falls nor rises throughout"),
        ((0.0, float("nan")), "neither falls nor rises throughout"),
    ],
)
def test_schedules_that_cannot_be(timesteps: tuple[float, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=f"^schedule: .*{said}"):
        Schedule(timesteps)
