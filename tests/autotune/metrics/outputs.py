"""Outputs of an imagined recognizer, which every metric can judge: it is right in most places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics.base import HeldOut, Metric, Value, judged, read_all

STEPS, CLASSES = 12, 7


def answers(items: int, seed: int = 0) -> tuple[np.ndarray, HeldOut]:
    """f32[items, STEPS, CLASSES] scores, and a sample: what the steps should be is the reference `tokens`, without blanks and repetitions
    `labels`."""
    generator = np.random.default_rng(seed)
    steps = generator.integers(0, CLASSES, (items, STEPS))
    steps[:, 0] = generator.integers(1, CLASSES, items)
    labels = np.zeros((items, STEPS), np.int64)
    for row, classes in zip(labels, steps, strict=True):
        kept = [c for c, before in zip(classes, [-1, *classes[:-1]], strict=True) if c not in (before, 0)]
        row[: len(kept)] = kept
    scores = 3 * np.eye(CLASSES)[steps] + generator.normal(0, 1, (items, STEPS, CLASSES))
    return scores.astype(np.float32), HeldOut({"x": np.zeros((items, 3), np.float32)}, {"tokens": steps, "labels": labels})


def pieces(array: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(array, np.cumsum(sizes)[:-1])


def parts(sample: HeldOut, sizes: Sequence[int]) -> list[HeldOut]:
    """The sample in batches of these sizes."""
    inputs = {name: pieces(array, sizes) for name, array in sample.inputs.items()}
    references = {name: pieces(array, sizes) for name, array in sample.references.items()}
    return [
        HeldOut({name: some[i] for name, some in inputs.items()}, {name: some[i] for name, some in references.items()})
        for i in range(len(sizes))
    ]


def measured(metric: Metric, dense: np.ndarray, other: np.ndarray, sample: HeldOut | None = None) -> Value:
    """Of one batch with one output."""
    held = sample or HeldOut({"x": np.zeros((len(dense), 1), np.float32)})
    return judged(metric, read_all(metric, [[dense]], [held]), read_all(metric, [[other]], [held]))
