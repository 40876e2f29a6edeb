from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsecc.calibration.samples import labelled_of, samples_of
from sparsecc.errors import InputError
from sparsecc.graph.base import TensorSpec

SPECS = (TensorSpec("x", ("n", 4), "float32"),)
ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)
LABELS = np.arange(12).reshape(6, 2)


def test_an_npz_with_references(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    np.savez(path, **{"x": ROWS, "reference:labels": LABELS})
    found = labelled_of(path, SPECS)
    assert [one.sample[0].tolist() for one in found] == [[row] for row in ROWS.tolist()]
    assert [one.references["labels"].tolist() for one in found] == [[row] for row in LABELS.tolist()]
    samples = samples_of(path, SPECS)
    assert samples is not None and all(len(sample) == 1 for sample in samples)


@pytest.mark.parametrize("stacked", [False, True])
def test_batches_get_an_entry_for_each_item(stacked: bool) -> None:
    found = labelled_of({"x": ROWS.reshape(2, 3, 4) if stacked else ROWS, "reference:y": LABELS}, [TensorSpec("x", (3, 4), "float32")])
    assert [one.references["y"].tolist() for one in found] == [LABELS[:3].tolist(), LABELS[3:].tolist()]


def test_samples_without_a_batch() -> None:
    found = labelled_of({"x": ROWS, "reference:y": LABELS}, [TensorSpec("x", (4,), "float32")])
    assert [one.references["y"].tolist() for one in found] == [[row] for row in LABELS.tolist()]


def test_dicts_of_an_iterable_are_copied_with_their_references() -> None:
    labels = torch.zeros(2, 3, dtype=torch.int64)

    def loader() -> Any:
        for number in range(2):
            labels[:] = number
            yield {"x": torch.ones(2, 4), "reference:labels": labels}

    found = labelled_of(loader(), SPECS)
    assert [int(one.references["labels"].max()) for one in found] == [0, 1]
    assert labelled_of([ROWS[:1]], SPECS)[0].references == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"x": ROWS, "reference:y": LABELS[:5]}, "calibration: 'reference:y' has 5 entries, there are 6 items in 6 samples"),
        ({"x": ROWS, "reference:y": np.array(3)}, "calibration: 'reference:y' is no array with an entry for each item"),
        ({"x": ROWS, "reference:y": "abc"}, "calibration: 'reference:y' is no array"),
        ([{"x": ROWS[:2], "reference:y": LABELS}], "calibration, sample 0: 'reference:y' has 6 entries, there are 2 items in 1 samples"),
        ({"x": ROWS, "references:y": LABELS}, "the model has no input 'references:y'"),
    ],
)
def test_references_that_do_not_fit(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        labelled_of(source, SPECS)
