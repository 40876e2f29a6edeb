"""Which of many samples a model cannot take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sparsecc.errors import InputError
from sparsecc.graph.base import Graph


@contextmanager
def numbered(graph: Graph, samples: Sequence[Any] | None) -> Iterator[None]:
    """An InputError in here names the first sample that the model cannot take: sizes that do not fit, an index that no table has.

    All samples go through a model side by side; where that fails, they go one by one."""
    try:
        yield
    except InputError:
        for number, sample in enumerate(samples or ()):
            try:
                graph.run(sample)
            except InputError as error:
                raise InputError(f"calibration, sample {number}: {error}") from None
        raise
