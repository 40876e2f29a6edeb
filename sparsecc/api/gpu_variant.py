"""A variant of a model on a GPU, as a search measures and judges it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from sparsecc.api import gpu
from sparsecc.graph.binding import bind
from sparsecc.graph.fx import state
from sparsecc.graph.inputs import as_array, as_tensor
from sparsecc.report.profile import Profile, Row
from sparsecc.runtime.outputs import rebuild
from sparsecc.timing import Spread

if TYPE_CHECKING:
    from sparsecc.graph.fx.graph import FxGraph
    from sparsecc.report.base import Report

Turns = Callable[[Sequence[Callable[[], object]], float, int], list[list[float]]]
"""Calls, seconds and rounds → for each call its microseconds in each round."""


class GpuVariant:
    """program: the graph.  us: microseconds of each layer by itself.  turns: times whole calls.

    Called as `Compiled` is, with tensors wherever they lie, or arrays. Arrays that it gives are float32 where the model's numbers are
    bfloat16, of which numpy computes nothing."""

    def __init__(self, program: GraphModule, graph: FxGraph, report: Report, us: Mapping[str, float], turns: Turns) -> None:
        """graph: whose inputs and outputs the program has."""
        self.program, self.report, self.us = program, report, us
        self.inputs, self.outputs = tuple(graph.inputs), tuple(graph.outputs)
        self._structure, self._turns = graph.structure, turns

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InputError for inputs that do not fit."""
        return rebuild(self._structure, self.flat(bind(self.inputs, args, kwargs)))

    def flat(self, values: Sequence[Any]) -> list[Any]:
        """The outputs in a row, for inputs in the model's order; tensors, where any input is one, on its device."""
        tensors = [as_tensor(value, f"input {spec.name!r}") for spec, value in zip(self.inputs, values, strict=True)]
        outputs = gpu.called(self.program, self.program, self.inputs, tensors)
        given = next((value for value in values if isinstance(value, Tensor)), None)
        return [_array(output) if given is None else output.to(given.device) for output in outputs]

    def call(self, values: Sequence[Tensor]) -> Callable[[], object]:
        """A call with these inputs, which has them on the device already. Its outputs stay there; it writes the model's buffers."""
        return functools.partial(self._run, *gpu.arguments_of(self.program, self.inputs, values))

    def _run(self, args: Any, kwargs: Any) -> object:
        with torch.no_grad():
            return self.program(*args, **kwargs)

    def profile_of(self, values: Sequence[Any], seconds: float = 2.0, rounds: int = 50) -> Profile:
        """A row for each layer, as it was timed by itself with cold weights, and the whole call."""
        [taken] = timed([self], values, self._turns, seconds, rounds)
        rows = tuple(Row(name, None, name, (), us) for name, us in self.us.items())
        return Profile(rows=rows, whole_us=Spread.of(taken), watched=Spread(1.0, 1.0, 1.0), rounds=len(taken), threads=1)


def timed(variants: Sequence[GpuVariant], values: Sequence[Tensor], turns: Turns, seconds: float, rounds: int) -> list[list[float]]:
    """For each variant the microseconds of a call in each round. What calls write into buffers is taken back."""
    with ExitStack() as stack:
        for variant in variants:
            stack.enter_context(state.restored(variant.program))
        return turns([variant.call(values) for variant in variants], seconds, rounds)


def _array(output: Tensor) -> np.ndarray:
    return as_array(output.float() if output.dtype == torch.bfloat16 else output)
