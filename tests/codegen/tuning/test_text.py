from __future__ import annotations

import json

import pytest
from hypothesis import given

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.text import parse, text
from tests.codegen.tuning.tasks import HERE, knobs, tasks


@given(task=tasks, some=knobs)
def test_there_and_back(task: Task, some: Tiles) -> None:
    assert parse(Task, text(task)) == task
    assert parse(Tiles, text(some)) == some
    assert "\n" not in text(task), "a line on a pipe"


def test_targets() -> None:
    assert parse(Target, text(HERE)) == HERE
    assert json.loads(text(HERE))["cpu"] == HERE.cpu


@pytest.mark.parametrize("wrong", ["", "{", "{}", '{"tile": 1, "rows": 2, "panel": 3, "groups": "x"}'])
def test_anything_else_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        parse(Tiles, wrong)
