from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparsecc.autotune.metrics.base import HeldOut
from sparsecc.autotune.metrics.cer import Cer, decoded, edits
from sparsecc.errors import InputError
from tests.autotune.metrics.outputs import measured

LABELS = np.array([[1, 2, 3, 0], [2, 2, -1, -1], [4, 0, 0, 0]])
PATHS = np.array([[1, 1, 0, 2, 3], [2, 0, 2, 2, 0], [0, 0, 4, 4, 4]])
SAMPLE = HeldOut({"x": np.zeros((3, 2), np.float32)}, {"labels": LABELS})


def scores(paths: np.ndarray) -> np.ndarray:
    return np.eye(5, dtype=np.float32)[paths]


def test_edits_by_characters_over_all_items() -> None:
    other = PATHS.copy()
    other[0, 3], other[1, 1], other[2] = 4, 2, 0  # one replaced, two that become one, nothing read
    value = measured(Cer(), scores(PATHS), scores(other), SAMPLE)
    assert (value.value, value.dense, value.ratio) == (pytest.approx(3 / 6), 0.0, None)


def test_repetitions_are_one_and_blanks_none() -> None:
    assert [decoded(row) for row in scores(PATHS)] == [[1, 2, 3], [2, 2], [4]]
    assert decoded(np.full((4, 5), np.nan)) == []
    assert decoded(scores(np.array([1, 0, 1, 0]))) == [1, 1]


def by_search(wanted: str, got: str) -> int:
    """By recursion without a table."""
    if not wanted or not got:
        return len(wanted) + len(got)
    if wanted[0] == got[0]:
        return by_search(wanted[1:], got[1:])
    return 1 + min(by_search(wanted[1:], got[1:]), by_search(wanted[1:], got), by_search(wanted, got[1:]))


def test_edits_of_all_short_words() -> None:
    words = ["".join(letters) for length in range(4) for letters in itertools.product("abc", repeat=length)]
    assert all(edits(a, b) == by_search(a, b) for a in words for b in words[::3])


@pytest.mark.parametrize(
    ("wanted", "got", "count"),
    [
        ("same", "same", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("return", "retum", 2),
        ("a b", "ab", 1),
        ("ab", "ba", 2),
    ],
)
def test_edits_of_words(wanted: str, got: str, count: int) -> None:
    assert edits(wanted, got) == edits(got, wanted) == count


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({}, "needs the right characters; add an array 'reference:labels' to the samples"),
        ({"labels": LABELS * 1.0}, r"the reference 'labels' is float64\[3, 4\], not integers \[batch, length\]"),
        ({"labels": LABELS + 1}, "the reference 'labels' has the class 5, the model 5 classes"),
    ],
)
def test_references_that_do_not_fit(references: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cer().read([scores(PATHS)], HeldOut(SAMPLE.inputs, references))


def test_outputs_that_are_no_steps() -> None:
    with pytest.raises(InputError, match=r"has the shape \[3, 5\], not \[batch, steps, classes\]"):
        Cer().read([scores(PATHS)[..., 0]], SAMPLE)


def test_references_without_characters() -> None:
    refused = Cer().refuse(Cer().read([scores(PATHS)], HeldOut(SAMPLE.inputs, {"labels": LABELS * 0})))
    assert refused is not None and "hold no characters" in refused.reason
