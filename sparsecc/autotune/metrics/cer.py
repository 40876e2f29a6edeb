"""The character error rate of a recognizer that is trained by CTC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics.base import HeldOut, Metric, Outputs, floats
from sparsecc.errors import InputError, Refused

LABELS = "labels"  # the reference
BLANK = 0


class Cer(Metric[np.ndarray]):
    """Edits between what is read and the references, by the characters of the references, over all items.

    The first output of floats is [batch, steps, classes]. It is decoded greedily: the best class of each step, repetitions once, without
    blanks, which are class 0 (Graves et al., Connectionist Temporal Classification, 2006). The reference `labels`, int[batch, length],
    holds classes; entries of 0 and below are padding.
    """

    better = "lower"
    perfect = 0.0
    of_one_model = True

    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[np.ndarray]:
        labels = sample.reference(LABELS, "needs the right characters")
        scores = floats(outputs)
        if scores.ndim != 3 or len(scores) != sample.items:
            raise InputError(f"the first output of floats has the shape {list(scores.shape)}, not [batch, steps, classes]")
        if labels.ndim != 2 or labels.dtype.kind not in "iu":
            raise InputError(f"the reference {LABELS!r} is {labels.dtype}{list(labels.shape)}, not integers [batch, length]")
        if labels.max(initial=BLANK) >= scores.shape[2]:
            raise InputError(f"the reference {LABELS!r} has the class {labels.max()}, the model {scores.shape[2]} classes")
        wanted = [row[row > BLANK] for row in labels]
        return [np.array([edits(right.tolist(), decoded(item)), len(right)]) for right, item in zip(wanted, scores, strict=True)]

    def compare(self, dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        """[items, 2]: edits, characters."""
        return np.stack(other).astype(np.float64)

    def value(self, rows: np.ndarray) -> float:
        wrong, characters = rows.sum(0)
        return float(wrong / characters) if characters else np.nan

    def refuse(self, dense: Sequence[np.ndarray]) -> Refused | None:
        return None if any(length for _, length in dense) else Refused(f"the references {LABELS!r} hold no characters")


def decoded(scores: np.ndarray) -> list[int]:
    """Greedily, see `Cer`. scores: [steps, classes]; NaN is the worst of them."""
    values = scores.astype(np.float64)
    best = np.where(np.isnan(values), -np.inf, values).argmax(-1)
    first = np.diff(best, prepend=-1) != 0
    return best[first & (best != BLANK)].tolist()


def edits(wanted: Sequence[object], got: Sequence[object]) -> int:
    """The fewest entries to insert, delete or replace (Levenshtein 1966), by the table of prefixes (Wagner and Fischer 1974)."""
    above = list(range(len(got) + 1))
    for i, entry in enumerate(wanted, 1):
        row = [i]
        for j, other in enumerate(got, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (entry != other)))
        above = row
    return above[-1]
