"""Timing the calls of a generated program while the whole of it runs.

Measured kernel by kernel, each alone, MiniLM's layers take 18 % less than in the model: there other layers' weights push theirs out of the
caches. So the virtual machine's instrument takes the time before and after each call in it. Its own work lies between the calls.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.report.profile import Profile, Row
from sparsecc.timing import Spread, interleave, speedup

if TYPE_CHECKING:
    from sparsecc.codegen.library import KernelCall
    from sparsecc.runtime.code import Specialization

_BUILTIN = "vm.builtin."  # allocation, checks of shapes, reshapes that move nothing


def profiled(
    specialization: Specialization,
    whole: Callable[[], Any],
    call: Callable[[Callable[..., Any]], None],
    threads: Callable[[], int | None],
    seconds: float,
    rounds: int,
) -> Profile:
    """whole: a call as users make it.  call: calls the program by an entry point that it is given.  threads: that calls use, None
    before they have found out."""
    while threads() is None:
        whole()
    watch = _Watch()
    main = specialization.program.watched(watch)

    def watched() -> None:
        watch.begin()
        call(main)

    timings = interleave({"whole": whole, "watched": watched}, seconds=seconds, rounds=rounds)
    return Profile(
        rows=tuple(_rows(*watch.medians(), specialization.calls)),
        whole_us=Spread.of([1e6 * taken for taken in timings["whole"].seconds]),
        watched=speedup(timings["whole"], over=timings["watched"]),
        rounds=len(timings["whole"].seconds),
        threads=threads() or 1,
    )


class _Watch:
    """The instrument. A run is a list of (symbol, nanoseconds)."""

    def __init__(self) -> None:
        self._runs: list[list[tuple[str, int]]] = []
        self._began = 0

    def begin(self) -> None:
        self._runs.append([])

    def __call__(self, function: Any, symbol: str, before: bool, result: Any, *arguments: Any) -> int:
        now = time.perf_counter_ns()
        if symbol.startswith(_BUILTIN):
            return 0
        if not before:
            self._runs[-1].append((symbol, now - self._began))
        self._began = time.perf_counter_ns()
        return 0

    def medians(self) -> tuple[list[str], list[float]]:
        """Symbols in the order of execution, which no data changes, and µs."""
        times = np.array([[taken for _, taken in run] for run in self._runs], np.float64)
        return [symbol for symbol, _ in self._runs[0]], [float(us) for us in np.median(times, axis=0) / 1e3]


def _rows(symbols: Sequence[str], us: Sequence[float], calls: Sequence[KernelCall]) -> Iterator[Row]:
    """A kernel's calls come in the order in which they were emitted; which others stand between them does not matter."""
    emitted: dict[str, list[KernelCall]] = {}
    for call in calls:
        emitted.setdefault(call.symbol, []).append(call)
    whose = {symbol: iter(found) for symbol, found in emitted.items() if _all_run(symbol, found, Counter(symbols))}
    for symbol, taken in zip(symbols, us, strict=True):
        call = next(whose[symbol]) if symbol in whose else None
        kernel = _kernel(symbol) if symbol in emitted else None
        yield Row(symbol, kernel, call.site if call else None, call.readers if call else (), taken)


def _all_run(symbol: str, calls: Sequence[KernelCall], run: Mapping[str, int]) -> bool:
    """Whether none was left out, so that it is known which is which."""
    return run[symbol] == len(calls)


def _kernel(symbol: str) -> str:
    """Without the number that tells kernels of one name apart."""
    return re.sub(r"_\d+$", "", symbol)
