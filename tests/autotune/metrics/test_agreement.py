from __future__ import annotations

import numpy as np
import pytest

from sparsecc.autotune.metrics.agreement import Agreement
from sparsecc.autotune.metrics.base import HeldOut
from sparsecc.errors import InputError
from tests.autotune.metrics.outputs import measured

ONE_HOT = np.eye(4, dtype=np.float32)


def test_classes_of_items() -> None:
    dense, other = ONE_HOT[[0, 1, 2, 3, 3]], ONE_HOT[[0, 1, 2, 0, 3]]
    assert measured(Agreement(), dense, other).value == pytest.approx(4 / 5)


def test_labels_of_tokens_without_padding() -> None:
    dense, other = ONE_HOT[[[0, 1, 2], [3, 3, 3]]], ONE_HOT[[[0, 2, 0], [3, 3, 0]]]
    assert measured(Agreement(), dense, other).value == pytest.approx((1 / 3 + 2 / 3) / 2)
    sample = HeldOut({"x": np.zeros((2, 3)), "attention_mask": np.array([[1, 1, 0], [0, 0, 0]])})
    assert measured(Agreement(), dense, other, sample).value == pytest.approx(1 / 2)  # the second item is all padding


def test_an_answer_that_is_no_number_is_another() -> None:
    other = ONE_HOT.copy()
    other[2, 0] = np.nan
    assert measured(Agreement(), ONE_HOT, other).value == pytest.approx(3 / 4)


def test_one_answer_for_all_items_says_nothing() -> None:
    refused = Agreement().refuse(Agreement().read([ONE_HOT[[2, 2]]], HeldOut({"x": np.zeros((2, 1))})))
    assert refused is not None and refused.reason.startswith("the dense model answers 2 in all 2 items")


def test_one_class_is_no_choice() -> None:
    with pytest.raises(InputError, match=r"an output of shape \[5, 1\] has no classes to choose from"):
        Agreement().read([np.zeros((5, 1), np.float32)], HeldOut({}))
