"""How many threads generated code uses. TVM keeps one thread pool for each thread that calls it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from sparsecc.codegen import tvm_api
from sparsecc.errors import UserError

_SHARE_ALL_CORES = -3  # TVM's affinity mode in which no worker is pinned; pinned workers of several callers pile up on the same core
_current = threading.local()


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
