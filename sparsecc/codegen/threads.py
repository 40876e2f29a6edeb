"""How many threads generated code uses. TVM keeps one thread pool for each thread that calls it."""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sparsecc.codegen import tvm_api
from sparsecc.errors import UserError

_SHARE_ALL_CORES = -3  # TVM's affinity mode in which no worker is pinned; pinned workers of several callers pile up on the same core
_OWNERS = 8  # Python threads that may ever have a pool of their own, beside the lent ones
_current = threading.local()
_places = itertools.count()
T = TypeVar("T")


def available() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Cores behind the CPUs that this process may run on: hyper-threads of one core count once."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(available())
    siblings = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus]
    return len({path.read_text() if path.exists() else str(path) for path in siblings})


def wanted(threads: int | None, otherwise: int) -> int:
    """How many threads a caller asks for. Raises UserError for what is no count."""
    if threads is None:
        return otherwise
    if not isinstance(threads, int) or threads < 1:
        raise UserError(f"threads: {threads!r} is no whole number from one")
    return threads


def use_threads(count: int) -> None:
    """Let generated code called from this Python thread use `count` threads (at most the CPUs available).

    Has to come before the first such call: left alone, TVM halves the CPUs for hyper-threading and fixes its pool at that.
    """
    if getattr(_current, "count", None) == count:
        return
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(available())
    tvm_api.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, [str(cpu) for cpu in cpus])
    _current.count = count


def run(count: int, work: Callable[[], T]) -> T:
    """work(), generated code in it using `count` threads: in this thread if it is among the first to ask, otherwise in a lent one.

    The workers of a thread that has ended stay for seconds or for good: 100 short callers left 200. With a lent thread a call takes
    15 µs more (measured on 2 cores), in its own 0.3.
    """
    if count == 1 or _owns_pool():
        return _run_here(count, work)
    return _lent().submit(_run_here, count, work).result()


def _run_here(count: int, work: Callable[[], T]) -> T:
    use_threads(count)
    with _cpus().taken(count):
        return work()


class _Cpus:
    """The CPUs that calls share: one that uses several threads waits until as many are free.

    Workers wait for each other by spinning. With four callers of two threads each on two CPUs they spun while those that they waited for
    had no CPU: BERT-base gave 0.91 of one caller's throughput.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = threading.Semaphore(count)
        self._first = threading.Lock()  # whoever holds it collects CPUs: two that each held half of what they need would wait forever

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        count = min(count, self._count)
        with self._first:
            for _ in range(count):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(count)


@functools.cache
def _cpus() -> _Cpus:
    return _Cpus(available())


def _owns_pool() -> bool:
    if not hasattr(_current, "owns_pool"):
        _current.owns_pool = threading.current_thread() is threading.main_thread() or next(_places) < _OWNERS
    return _current.owns_pool


@functools.cache
def _lent() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(available(), "sparsecc")
