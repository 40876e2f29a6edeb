from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsecc import api
from sparsecc.api.compare import checked, compare, worst
from sparsecc.cli.common import require_right
from sparsecc.errors import SparseccError
from sparsecc.report.base import ORIGINAL, Check, Report

REPORT = Report(sparsecc="0", model="m", target="cpu")


def check(a: Any, b: Any) -> Check:
    return compare([np.asarray(a)], [np.asarray(b)])


def differs(ours: list[Any], theirs: list[Any]) -> bool:
    return api.differs(compare(ours, theirs), api.TOLERANCE)


def test_equal_outputs() -> None:
    about_one: Any = pytest.approx(1.0)
    assert check([1.0, -2.0], [1.0, -2.0]) == Check(max_abs=0.0, max_rel=0.0, cosine=about_one)
    assert check([0.0], [0.0]) == Check(max_abs=0.0, max_rel=0.0, cosine=1.0)
    assert check([np.inf, np.nan, 1.0], [np.inf, np.nan, 1.0]).max_abs == 0
    assert check(np.zeros((0, 3)), np.zeros((0, 3))).cosine == 1
    assert compare([], []).max_rel == 0


def test_differences_are_relative_to_the_largest_magnitude() -> None:
    result = check([1.0, -4.5], [1.0, -4.0])
    assert (result.max_abs, result.max_rel) == (0.5, 0.125)
    assert check([1 + 2j], [1 + 1j]).max_rel == 1
    assert compare([[{"a": 1.0, "b": 2.0}]], [[{"a": 1.0, "b": 2.5}]]).max_rel == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ([[1.0], [1.0]], [[1.0], [np.nan]], "output 1 holds NaN or infinity in other places; look for them in the weights"),
        ([[np.inf]], [[-np.inf]], "output 0 holds NaN or infinity in other places"),
        ([[1.0]], [[[1.0]]], r"output 0 has shape \[1\] and not \[1, 1\]"),
        ([np.ones(1, np.float32)], [np.ones(1)], "output 0 is of float32 and not float64"),
        ([np.array(["a", "b"], object)], [np.array(["a", "c"], object)], "output 0 holds other strings"),
        ([np.ones(2), np.ones(3)], [np.ones(2)], "there are 2 of them and not 1"),
    ],
)
def test_what_cannot_be_compared_is_as_wrong_as_can_be_and_says_why(ours: list[Any], theirs: list[Any], reason: str) -> None:
    as_arrays = [list(map(np.asarray, outputs)) for outputs in (ours, theirs)]
    report = checked(REPORT, as_arrays[0], as_arrays[1], ORIGINAL)
    assert report.check is not None and report.check.max_rel == np.inf
    assert Report.from_dict(report.to_dict()) == report
    with pytest.raises(SparseccError, match=f"outputs are not those of the model as it came: {reason}"):
        require_right(report)


def test_the_worst_of_all_outputs_and_samples_is_reported() -> None:
    report = checked(REPORT, [np.ones(2), np.ones(2)], [np.ones(2), np.full(2, 2.0)], ORIGINAL)
    again = checked(report, [np.ones(2)], [np.ones(2)]).check
    assert again is not None and (again.max_abs, again.max_rel, again.against) == (1, 0.5, ORIGINAL)
    assert worst([Check(max_abs=5, max_rel=0.1, cosine=1), Check(max_abs=1, max_rel=0.2, cosine=0)]) == Check(
        max_abs=5, max_rel=0.2, cosine=0
    )
    with pytest.raises(SparseccError, match=r"outputs differ from those of the model as it came by 0\.5 of the largest one"):
        require_right(report)


def test_tails_of_a_sigmoid_may_differ_but_not_in_their_sign() -> None:
    rng = np.random.default_rng(0)
    scores, boxes = np.full(10, 1e-7, np.float32), rng.standard_normal(100).astype(np.float32) * 100
    assert not differs([scores * 1.5], [scores])
    assert not differs([scores], [scores * 0])
    assert not differs([-scores], [scores * 0])  # what is left of a sum that should be zero
    assert not differs([scores * 1.5, boxes * (1 + 5e-7)], [scores, boxes])
    assert differs([scores, boxes * 1.01], [scores, boxes])
    assert differs([scores * 1000], [scores])
    assert differs([-scores], [scores])
    assert differs([boxes[::-1] * 1e-9], [boxes * 1e-9])
    assert not differs([boxes * (1 + 5e-7) * 1e-9], [boxes * 1e-9])
    assert differs([np.ones(1)], [np.zeros(1)])
