from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsecc.autotune import function
from sparsecc.autotune.function import UserMetric
from sparsecc.errors import MetricError, RecipeError


class Model:
    """A model that a function may call."""

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.answer * x


def accuracy(model: Model) -> float:
    return float(model(np.ones(4)).mean())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, of which Python knows nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_values_are_parts_of_the_dense_models() -> None:
    metric = UserMetric(accuracy, Model(0.8))
    assert metric.dense == pytest.approx(0.8) and metric.noise == 0
    value = metric(Model(0.6))
    assert value.value == pytest.approx(0.75) and value.spread is None
    assert metric(Model(-0.4)).value == pytest.approx(-0.5)


@pytest.mark.parametrize("number", [3, 0.5, np.float32(0.5), np.int64(2), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)])
def test_numbers_of_all_kinds(number: Any) -> None:
    assert UserMetric(lambda model: number, None).dense == float(number)


def test_a_function_that_is_not_deterministic_is_noticed() -> None:
    numbers = itertools.cycle([0.99, 1.01])
    with pytest.warns(UserWarning, match=r"metric .*: gave 0\.99 and then 1\.01 for the same dense model, 2\.00% apart; .*Set its seeds"):
        metric = UserMetric(lambda model: next(numbers), None)
    assert metric.noise == pytest.approx(0.02) and metric.dense == pytest.approx(1.0)
    assert metric(None).spread == metric.noise


def raising(model: Any) -> float:
    raise ZeroDivisionError("no labels\nin the second line")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (math.nan, "returned nan"),
        (-math.inf, "returned -inf"),
        ("0.9", "returned '0.9', which is no number"),
        (None, "returned None, which is no number"),
        (True, "returned True, which is no number"),
        (np.ones(2), r"returned array\(\[1\., 1\.\]\), which is no number"),
        (0, "is 0 for the dense model, relative to which nothing can be said; let it be above zero"),
        (-0.5, "is -0.5 for the dense model"),
    ],
)
def test_what_is_no_value(returned: Any, message: str) -> None:
    def score(model: Any) -> Any:
        return returned

    with pytest.raises(MetricError, match=f"^metric tests.autotune.test_function:test_what_is_no_value.<locals>.score: {message}"):
        UserMetric(score, None)


def test_a_function_that_raises_is_named() -> None:
    with pytest.raises(
        MetricError, match=r"^metric tests\.autotune\.test_function:raising: raised ZeroDivisionError: no labels in the second line$"
    ):
        UserMetric(raising, None)


def test_a_candidate_on_which_it_fails() -> None:
    metric = UserMetric(accuracy, Model(0.5))
    with pytest.raises(MetricError, match="returned nan"):
        metric(Model(math.nan))


def test_a_module_of_the_current_folder(folder: Path) -> None:
    (folder / "judging.py").write_text(
        "def score(model):\n    import beside_it\n    return beside_it.VALUE\n\nclass Of:\n    score = staticmethod(score)\n"
    )
    (folder / "beside_it.py").write_text("VALUE = 0.25\n")
    assert UserMetric("judging:score", None).dense == 0.25
    assert UserMetric("judging:Of.score", None).name == "judging:Of.score"
    assert sys.path[-1] == str(folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("score", "metric: 'score' names no function; write it as module:function"),
        (":score", "metric: ':score' names no function"),
        ("judging:", "metric: 'judging:' names no function"),
        ("absent:score", "metric: absent:score: absent cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        ("broken:score", "metric: broken:score: broken cannot be imported: SyntaxError: "),
        ("judging:scor", "metric: judging:scor: no 'scor'; did you mean 'score'?"),
        ("judging:NAME", "metric: judging:NAME is a str, no function"),
        (7, "metric: 7 is no function"),
    ],
)
def test_functions_that_are_not_there(folder: Path, spec: Any, message: str) -> None:
    (folder / "judging.py").write_text("NAME = 'x'\n\ndef score(model):\n    return 1.0\n")
    (folder / "broken.py").write_text("def score(:\n")
    with pytest.raises(RecipeError) as caught:
        function.load(spec)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
