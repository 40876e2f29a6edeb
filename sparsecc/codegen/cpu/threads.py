"""How many threads generated code uses, and on whose: TVM keeps a pool for each thread that calls it."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.cpus import Cpus
from sparsecc.codegen.cpu.lent_threads import LentThreads
from sparsecc.errors import UserError

_SHARE_ALL_CORES = -3  # TVM's affinity mode in which no worker is pinned; pinned workers of several callers pile up on the same core
_PATIENCE_S = 10.0  # for calls that are under way, before the process forks or ends
_current = threading.local()
_making = threading.Lock()  # of a pool: its size is what was set last, by whichever thread
T = TypeVar("T")


def available() -> int:
    """CPUs that this process may run on."""
    return len(_usable())


def physical_cores() -> int:
    """Cores behind the CPUs that this process may run on: hyper-threads of one core count once."""
    siblings = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in _usable()]
    return len({path.read_text() if path.exists() else str(path) for path in siblings})


def _usable() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


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
    The thread's pool must not have been made by `run` for a single thread: those do not grow.
    """
    if getattr(_current, "count", None) == count:
        return
    if getattr(_current, "alone", False):
        raise RuntimeError(f"this thread's pool has one thread, {count} are wanted; call with `run`")
    with _making:
        _configure(count, _usable())


def run(count: int, work: Callable[[], T]) -> T:
    """work(), generated code in it using `count` threads: a single one is this thread, several belong to a lent one.

    So whoever calls has no workers, which matters when the process forks. The child's copy of a pool has none any more: a call in it hung,
    and so did the end of the child, which deletes the pool of the thread that forked. A pool of one, and one of a thread that the child
    has not, are deleted well or not at all. (It matters as well when the caller ends: 100 short callers left 200 workers.)
    """
    if count == 1:
        return _run_here(1, work)
    return _lent.run(lambda: _run_here(count, work))


def _run_here(count: int, work: Callable[[], T]) -> T:
    with _cpus.taken(count):
        if count == 1 and not hasattr(_current, "count"):
            _stay_alone()
        else:
            use_threads(count)
        return work()


def _stay_alone() -> None:
    """Give this thread a pool of one, without workers."""
    with _making:
        cpus = _usable()
        tvm_api.limit_threads(1)
        tvm_api.get_global_func("runtime.NumThreads")()  # makes the pool, and pins this thread to one CPU
        _configure(1, cpus)
    _current.alone = True


def _configure(count: int, cpus: list[int]) -> None:
    tvm_api.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, [str(cpu) for cpu in cpus])
    _current.count = count


_cpus = Cpus(available())
_lent = LentThreads("sparsecc")
_stopped: list[Cpus] = []


def _before_fork() -> None:
    """Wait for the calls of other threads: what these hold at that moment, TVM's locks among it, would stay held in the child."""
    if _cpus.stop(_PATIENCE_S):
        _stopped.append(_cpus)


def _in_parent() -> None:
    while _stopped:
        _stopped.pop().go_on()


def _in_child() -> None:
    global _making, _cpus, _lent
    _making, _cpus, _lent = threading.Lock(), Cpus(available()), LentThreads("sparsecc")
    _stopped.clear()


@atexit.register
def _at_exit() -> None:
    """Native code in the middle of a call must not outlive the interpreter."""
    _lent.finish(_PATIENCE_S)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
