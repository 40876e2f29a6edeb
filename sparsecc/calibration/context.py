"""What a step that looks at a model may need beside it: samples, a seed, somebody to tell how far it is, a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from sparsecc.criteria.base import Stats
from sparsecc.graph.base import Graph


@dataclass(frozen=True)
class Progress:
    """How far a pass that takes long is: `done` of `total` steps, and a word on how it goes."""

    what: str
    done: int
    total: int
    note: str = ""


Clock = Callable[[Graph, str, Sequence[str]], Mapping[str, Callable[[float], float]]]
"""(model, pattern, names of sites) → for each of them, share of its weights kept → milliseconds; no less for a larger share."""


@dataclass(frozen=True)
class Context:
    """What a pass may need beside the graph. calibration: samples, as `calibration.samples.samples_of` reads
    them; None when the user gave none.

    original: the model as it came, before the first pass of the recipe, its neurons in the order that they have by now; None where a
    pass is applied by itself.  progress: called by passes that take minutes.
    clock: what layers take in code generated for a machine; None where there is none.
    scratch: a folder in which pruned weights are kept, not in memory: for models that are larger than it.
    known: statistics of what enters layers of the model as it came, by name, so that the first pass need not run the model; None where
    each pass takes its own.
    destination: what the result is for: `code` that sparsecc generates, or an `onnx` file for a stock onnxruntime.
    stateful: whether the result may remember something from call to call, as code for CPUs does not."""

    calibration: Sequence[Sequence[Any] | Mapping[str, Any]] | None = None
    seed: int = 0
    original: Graph | None = None
    progress: Callable[[Progress], None] | None = None
    scratch: str | PathLike[str] | None = None
    clock: Clock | None = None
    known: Mapping[str, Stats] | None = None
    destination: Literal["code", "onnx"] = "code"
    stateful: bool = True

    def tell(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report progress to whoever asked for it."""
        if self.progress is not None:
            self.progress(Progress(what, done, total, note))
