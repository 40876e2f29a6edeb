from __future__ import annotations

from typing import Any

import pytest

from sparsecc.errors import RecipeError
from sparsecc.train.gmp import Gmp


def days(**fields: Any) -> list[int]:
    method = Gmp(**fields)
    return [step for step in range(method.steps + 1) if method.changes_at(step)]


def test_masks_change_every_so_many_steps_and_at_the_last() -> None:
    assert days(steps=100, every=25) == [25, 50, 75]
    assert days(steps=100, every=30) == [30, 60, 75]
    assert days(steps=100, every=20, begin=10, end=60) == [10, 30, 50, 60]
    assert days(steps=1) == [1]


def test_progress_runs_from_begin_to_the_last_change() -> None:
    method = Gmp(steps=100, begin=10, end=60)
    assert [method.progress(step) for step in (0, 10, 35, 60, 100)] == [0, 0, 0.5, 1, 1]
    assert next(step for step in range(100) if method.settled(step)) == 60


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"steps": 10, "every": 0}, "every: 0 is less than 1"),
        ({"steps": 10, "begin": 7}, r"begin: 7 is not in \[0, 7\)"),
        ({"steps": 10, "begin": -1}, r"begin: -1 is not in"),
        ({"steps": 10, "end": 11}, "end: 11 is after the last of 10 steps"),
        ({"steps": 10, "min_weights": -1}, "min_weights: -1 is negative"),
    ],
)
def test_calendars_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        Gmp(**fields)
