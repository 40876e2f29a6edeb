"""What a model gives on a few samples, and how far a changed model is from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sparsecc.errors import UserError
from sparsecc.graph.base import Graph

if TYPE_CHECKING:
    from torch import Tensor


class Outputs:
    """Floating outputs alone: integers have no errors. dense: of the model as it is given, by sample and output."""

    def __init__(self, graph: Graph, samples: Sequence[Any]) -> None:
        self._samples = samples
        self.dense = self.of(graph)

    def of(self, graph: Graph) -> list[list[Tensor]]:
        """What another graph gives on the same samples."""
        return [[y for y in graph.run(sample).outputs if y.is_floating_point()] for sample in self._samples]

    def error(self, graph: Graph) -> float:
        """Σ ‖y − y'‖² / Σ ‖y‖² over the samples, the mean over the outputs; infinite where the changed model overflows.

        Raises UserError for a model whose outputs hold no numbers but zeros.
        """
        apart = _sums(self.dense, self.of(graph), lambda y, changed: y - changed)
        found = [part / whole for part, whole in zip(apart, self._power, strict=True) if whole]
        return sum(found) / len(found) if all(map(math.isfinite, found)) else math.inf

    @cached_property
    def _power(self) -> list[float]:
        power = _sums(self.dense, self.dense, lambda y, _: y)
        if not any(power):
            raise UserError("the model's outputs hold no numbers but zeros, integers or NaN, so that no error can be measured in them")
        return power


def _sums(dense: Sequence[Sequence[Tensor]], other: Sequence[Sequence[Tensor]], of: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Per output, the sum over the samples of the squares of what `of` makes of both, where the dense model's are finite."""
    sums = [0.0] * len(dense[0])
    for ys, others in zip(dense, other, strict=True):
        for i, (y, changed) in enumerate(zip(ys, others, strict=True)):
            finite = y.isfinite()
            sums[i] += float(of(y[finite].double(), changed[finite].double()).square().sum())
    return sums


def spread(samples: Sequence[Any], count: int) -> list[Any]:
    """At most `count` samples, evenly over all: they may be sorted."""
    return [samples[i * len(samples) // count] for i in range(count)] if len(samples) > count else list(samples)
