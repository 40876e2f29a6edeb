"""A search for a goal, and what it found beside OpenVINO's int8: in pairs, each engine in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import sparsecc
from benchmarks import export
from benchmarks.peers import Engine, OnnxRuntime, OpenVinoInt8, Workload
from benchmarks.processes import Artifact, Process, in_turns, started
from sparsecc.autotune import account, metrics
from sparsecc.autotune.metrics.base import HeldOut, judged, read_all
from sparsecc.autotune.tune import Found
from sparsecc.calibration.context import Progress
from sparsecc.timing import speedup

OURS = "sparsecc"
_LATE = "the time was over"  # why a search leaves a rung out
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Field:
    """A model, and what it is searched and judged with. work: of fixed shapes, with inputs by which OpenVINO finds its ranges.
    calibration: as sparsecc takes it.  held_out: of work's shapes.  transformer: what NNCF is told of the model."""

    work: Workload
    calibration: Sequence[Any]
    held_out: Sequence[Arrays]
    metric: str
    transformer: bool
    threads: int

    @property
    def peers(self) -> tuple[Engine, ...]:
        return OpenVinoInt8(self.transformer), OpenVinoInt8(self.transformer, "bf16")

    @cached_property
    def _dense(self) -> list[list[np.ndarray]]:
        """What the model as it came answers, in float32."""
        with self._process(OnnxRuntime()) as process:
            return process.answers(OnnxRuntime().name, self.held_out)

    def quality(self, process: Process, name: str) -> float:
        """Of an engine, by the metric, on the samples held out."""
        metric = metrics.create(self.metric)
        held = [HeldOut(sample) for sample in self.held_out]

        def read(outputs: Sequence[list[np.ndarray]]) -> list[Any]:
            return read_all(metric, outputs, held)

        return judged(metric, read(self._dense), read(process.answers(name, self.held_out))).value

    def baseline(self, seconds: float) -> tuple[Engine, float]:
        """The faster of OpenVINO's two, and its quality. Raises RuntimeError where it cannot quantize the model, or run it."""
        with ExitStack() as stack:
            processes = [stack.enter_context(self._process(peer)) for peer in self.peers]
            timings = in_turns(processes, seconds)
            process, peer = min(zip(processes, self.peers, strict=True), key=lambda pair: timings[pair[1].name].spread_ms.median)
            return peer, self.quality(process, peer.name)

    @contextmanager
    def _process(self, engine: Engine) -> Iterator[Process]:
        with started([engine], replace(self.work, module=None), self.threads) as process:
            yield process

    def searched(self, goal: str, minutes: float, seed: int, console: Console) -> Found:
        """What was measured is kept in build/benchmarks, where the next run finds it."""
        with console.status(f"{self.work.name}: searching") as status:

            def tell(now: Progress) -> None:
                status.update(f"{self.work.name}: {now.what} {now.done}/{now.total} {now.note}")

            return sparsecc.tune(
                *self._opened,
                goal=goal,
                calibration=self.calibration,
                held_out=[tuple(sample.values()) for sample in self.held_out],
                minutes=minutes,
                folder=export.CACHE / f"search-{self.work.name}-{self.metric}",
                threads=self.threads,
                seed=seed,
                progress=tell,
                **self._shapes,
            )

    def against(self, found: Found, peer: Engine, seconds: float) -> dict[str, Any]:
        """The best of a search, in turns with an engine. times: how many times as fast.  quality: of the model that is timed. Raises
        ValueError where the search has found nothing that meets its goal."""
        if found.best is None:
            raise ValueError("nothing was found that meets the goal")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "best.sparsecc"
            self.compiled(found.best.recipe, found.samples).save(path)
            with self._process(Artifact(OURS, path)) as ours, self._process(peer) as theirs:
                quality = self.quality(ours, OURS)
                timings = in_turns([ours, theirs], seconds)
        mine, its = timings[OURS], timings[peer.name]
        return {
            "recipe": found.best.recipe,
            "quality": quality,
            "times": speedup(mine, over=its).to_dict(),
            "ms": mine.spread_ms.median,
            "peer_ms": its.spread_ms.median,
        }

    def compiled(self, recipe: Any, samples: Sequence[Any]) -> Any:
        return sparsecc.compile(*self._opened, recipe=recipe, calibration=samples, threads=self.threads, **self._shapes)

    @property
    def _opened(self) -> tuple[Any, Any]:
        if self.work.module is None:
            return self.work.onnx, None
        return self.work.module, tuple(torch.from_numpy(value) for value in self.work.inputs.values())

    @property
    def _shapes(self) -> dict[str, Any]:
        return {} if self.work.module is not None else {"input_shapes": {name: value.shape for name, value in self.work.inputs.items()}}


def why(found: Found) -> str:
    """What the report says of how a search ended; what it had no time for, in one number."""
    report, late = account.report(found), sum(reason == _LATE for reason in found.left_out.values())
    notes = [note for note in report.notes if not note.endswith(_LATE)]
    return "; ".join([report.verdict, *notes, *([f"{late} rungs were left out for lack of time"] if late else [])])
