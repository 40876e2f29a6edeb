from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from sparsecc.calibration.context import Context
from sparsecc.calibration.samples import numbered
from sparsecc.errors import InputError
from sparsecc.graph.base import Run
from sparsecc.passes.pipeline import run
from sparsecc.passes.prune import Prune
from sparsecc.recipe import Recipe
from tests.passes.fake import FakeGraph, linear


class Table(FakeGraph):
    """Takes inputs below 10, as a model that reads a table of 10 rows."""

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        if float(inputs[0].max()) >= 10:  # type: ignore[index]
            raise InputError("index out of range")
        return super().run(inputs, taps)

    def walk(self, inputs: Sequence[Any], taps: Sequence[str]) -> Any:
        for given in inputs:
            self.run(given)
        return super().walk(inputs, taps)

    def copy(self) -> Table:
        return Table(tuple(self._sites.values()))


def test_the_sample_that_the_model_cannot_take_is_named() -> None:
    samples = [(torch.full((2, 64), value),) for value in (1.0, 2.0, 30.0, 40.0)]
    with pytest.raises(InputError, match=r"^calibration, sample 2: index out of range$"):
        run(Table([linear("a")]), Recipe((Prune(criterion="wanda"),)), Context(calibration=samples))


def test_other_errors_stay_as_they_are() -> None:
    graph = Table([linear("a")])
    with pytest.raises(InputError, match=r"^something else$"), numbered(graph, [(torch.ones(2, 64),)]):
        raise InputError("something else")
    with pytest.raises(InputError, match=r"^nothing given$"), numbered(graph, None):
        raise InputError("nothing given")
