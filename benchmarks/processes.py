"""Engines in processes of their own, which take turns: in one process either would find the other's threads spinning."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Call, Engine, Workload, call_of
from sparsecc.timing import Timing

_SETTLE_S = 0.02  # before a turn, for the other process's threads to go to sleep
_BURST_S = 0.02  # of calls in a turn
_MEANWHILE_S = 120.0  # for the other process to answer
_ENDING_S = 60.0
_LOADING_S = 1800.0  # for it to load its engines, which may quantize a model first


@dataclass(frozen=True)
class Artifact:
    """An engine: a model that sparsecc has compiled and saved."""

    name: str
    path: Path

    def load(self, workload: Workload, threads: int) -> Call:
        import sparsecc

        return call_of(sparsecc.load(self.path), workload)


@dataclass(frozen=True)
class Process:
    """A process with a model loaded in each of its engines, by name."""

    names: tuple[str, ...]
    pipe: Connection

    def turn(self, name: str) -> float:
        """Median seconds of a burst of calls."""
        time.sleep(_SETTLE_S)
        return self._ask(name, None)

    def answers(self, name: str, samples: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
        """The outputs for each sample. samples: of the workload's shapes."""
        return [self._ask(name, sample) for sample in samples]

    def _ask(self, name: str, sample: Mapping[str, np.ndarray] | None) -> Any:
        self.pipe.send((name, sample))
        return _answer(self.pipe, name, _MEANWHILE_S)


@contextmanager
def started(engines: Sequence[Engine], work: Workload, threads: int) -> Iterator[Process]:
    """One process for these engines, ended on the way out. Raises RuntimeError where it dies, or does not answer."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(tuple(engines), work, threads, there), daemon=True)
    process.start()
    there.close()
    names = tuple(engine.name for engine in engines)
    try:
        _answer(here, " and ".join(names), _LOADING_S)
        yield Process(names, here)
    finally:
        here.close()  # ends it
        process.join(_ENDING_S)
        process.kill()  # where an engine does not let it end
        process.join()


@contextmanager
def each_started(groups: Sequence[Sequence[Engine]], work: Workload, threads: int) -> Iterator[list[Process]]:
    """A process for each group of engines."""
    with ExitStack() as stack:
        yield [stack.enter_context(started(engines, work, threads)) for engines in groups]


def in_turns(processes: Sequence[Process], seconds: float) -> dict[str, Timing]:
    """Times of all engines by name, round by round, at least three rounds; each round in the reverse order of the one before."""
    order = [(process, name) for process in processes for name in process.names]
    taken: dict[str, list[float]] = {name: [] for _, name in order}
    start = time.perf_counter()
    while len(taken[order[0][1]]) < 3 or time.perf_counter() - start < seconds:
        for process, name in order:
            taken[name].append(process.turn(name))
        order.reverse()
    return {name: Timing(name, tuple(times)) for name, times in taken.items()}


def answers(call: Call, inputs: Mapping[str, np.ndarray], samples: Sequence[Mapping[str, np.ndarray]]) -> list[list[np.ndarray]]:
    """The outputs for each sample. Calls read the arrays of `inputs`: samples are written into these, and taken out again."""
    kept = {name: value.copy() for name, value in inputs.items()}
    try:
        found = []
        for sample in samples:
            _write(inputs, sample)
            found.append([np.array(output) for output in call()])  # copies: OpenVINO gives the same memory each time
        return found
    finally:
        _write(inputs, kept)


def _write(inputs: Mapping[str, np.ndarray], sample: Mapping[str, np.ndarray]) -> None:
    for name, value in inputs.items():
        value[...] = sample[name]


def _answer(pipe: Connection, name: str, wait: float) -> Any:
    try:
        if pipe.poll(wait):
            found = pipe.recv()
            if isinstance(found, Exception):
                raise RuntimeError(f"{name}: {' '.join(str(found).split())[:300]}") from found
            return found
    except EOFError:
        raise RuntimeError(f"{name}: its process died") from None
    raise RuntimeError(f"{name}: no answer in {wait:.0f} s")


def _serve(engines: Sequence[Engine], work: Workload, threads: int, pipe: Connection) -> None:
    try:
        calls = {engine.name: engine.load(work, threads) for engine in engines}
    except Exception as error:
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
        raise
    pipe.send(list(calls))
    try:
        while True:
            name, sample = pipe.recv()
            pipe.send(_burst(calls[name]) if sample is None else answers(calls[name], work.inputs, [sample])[0])
    except EOFError:
        return


def _burst(call: Call) -> float:
    call()
    times = []
    start = now = time.perf_counter()
    while len(times) < 3 or now - start < _BURST_S:
        before = now
        call()
        now = time.perf_counter()
        times.append(now - before)
    return statistics.median(times)
