"""The process that builds and times candidates: one JSON request per line on stdin, one reply per line on stdout.

It may crash or hang in what it measures. A candidate that takes too long ends it by SIGALRM, which no code in a loop can miss.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.backend import TunableBackend, named
from sparsecc.codegen.calls import Tape, recorded
from sparsecc.codegen.numbers import Numbers, bfloat16
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.precisions.int8 import LEVELS
from sparsecc.timing import interleave

TOLERANCE = 1e-3  # relative to the largest output: sums in another order stay a hundred times below
_ROUNDS = ((3, 1.3), (6, 1.05), (15, 0.0))  # so many more rounds; over so many times the reference's time no further ones
_ROUNDS_ALONE = 12


@dataclass(frozen=True)
class Way:
    """A task with knobs (as `text` has them): one way to compute something."""

    task: Task
    knobs: str


@dataclass(frozen=True)
class Request:
    """target: as `text` has it.  matrix: path of the weight as .npy; without one it is random.
    reference: computes the same as `candidate`."""

    backend: str
    target: str
    matrix: str | None
    candidate: Way
    reference: Way | None
    limit_s: float


@dataclass(frozen=True)
class Reply:
    """Seconds per round, those of candidate and reference taken in turns; or why there are none."""

    seconds: tuple[float, ...] = ()
    reference_seconds: tuple[float, ...] = ()
    failure: str | None = None


def main() -> None:
    """Serve until stdin ends. The first line on stdout says that it is ready."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anybody prints is no reply
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _ = tvm_api.tvm
    print(json.dumps("ready"), file=replies, flush=True)
    for line in sys.stdin:
        request = parse(Request, line)
        signal.setitimer(signal.ITIMER_REAL, request.limit_s)
        reply = answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(text(reply), file=replies, flush=True)


def answer(request: Request) -> Reply:
    backend = named(request.backend)
    assert isinstance(backend, TunableBackend)
    target = parse(backend.target, request.target)
    return backend.serve(target, lambda: _answer(backend, target, request))


def _answer(backend: TunableBackend, target: Target, request: Request) -> Reply:
    try:
        ways = [way for way in (request.candidate, request.reference) if way is not None]
        ready = [_ready(backend, target, request.matrix, way) for way in ways]
    except Exception as error:  # noqa: BLE001  # whatever a kernel or TVM raises is this candidate's result
        return Reply(failure=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"[:300])
    for tape, _ in ready:
        tape.run()
    outputs = [tape.values(y) for tape, y in ready]
    if not np.isfinite(outputs[0]).all():
        return Reply(failure="computes NaN or infinity")
    off = float(np.abs(outputs[0] - outputs[-1]).max() / max(float(np.abs(outputs[-1]).max()), 1e-30))
    if not off <= TOLERANCE:
        return Reply(failure=f"computes something else: off by {off:.2g} of the largest output")
    return _timed([tape.run for tape, _ in ready])


@functools.lru_cache(maxsize=4)  # the reference stays from request to request
def _ready(backend: TunableBackend, target: Target, matrix: str | None, way: Way) -> tuple[Tape, Any]:
    """The calls of the compiled candidate, and the tensor that they write."""
    task = way.task
    knobs = parse(task.row(target).knobs, way.knobs)
    plan = backend.plan(task, knobs, weight_of(task, matrix), None, target)
    tape = backend.tape(target, {})
    return tape, recorded(tape, plan, task.spec)


def weight_of(task: Task, path: str | os.PathLike[str] | None) -> Numbers:
    """path: of the matrix of the layer's `Numbers`; scales are equal, as they change no time."""
    spec = task.spec
    matrix = np.load(path) if path is not None else np.random.default_rng(0).standard_normal((spec.rows, spec.depth), np.float32)
    if spec.dtype != "int8":
        return Numbers(bfloat16(matrix) if spec.dtype == "bfloat16" else matrix)
    scales = np.full(spec.rows, 1 / LEVELS, np.float32)
    return Numbers(matrix if path is not None else (32 * matrix).clip(-LEVELS, LEVELS).astype(np.int8), scales)


def _timed(calls: list[Callable[[], None]]) -> Reply:
    """In turns; the nearer a candidate comes to its reference, the longer, so that noise does not decide between them."""
    if len(calls) == 1:
        [alone] = interleave({"candidate": calls[0]}, rounds=_ROUNDS_ALONE).values()
        return Reply(alone.seconds)
    taken: list[tuple[float, ...]] = [(), ()]
    for rounds, hopeless in _ROUNDS:
        timings = interleave({str(index): call for index, call in enumerate(calls)}, rounds=rounds)
        taken = [before + timing.seconds for before, timing in zip(taken, timings.values(), strict=True)]
        if np.median([a / b for a, b in zip(*taken, strict=True)]) > hopeless > 0:
            break
    return Reply(taken[0], taken[1])


if __name__ == "__main__":
    main()
