"""A model in a process of its own: what hangs, crashes or takes all memory is a row, and no more than that."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.coverage.row import Row

ROOT = Path(__file__).parents[2]
_FRAME = re.compile(r'File "(?:.*/)?(sparsecc/[^"]+)", line (\d+), in (\w+)')


@dataclass(frozen=True)
class Limits:
    """seconds: of CPU time, or by the clock without any, for a busy machine makes no hangs.  gigabytes: of memory that it writes to."""

    seconds: float = 180
    gigabytes: float = 6


def measured_apart(name: str, source: str, options: Sequence[str], limits: Limits) -> Row:
    """The row of `python -m benchmarks.coverage --here NAME`."""
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        noted, errors = Path(folder) / "row.json", Path(folder) / "stderr"
        command = [sys.executable, "-m", "benchmarks.coverage", "--here", name, "--note", str(noted), "--memory", str(limits.gigabytes)]
        with errors.open("wb") as stream:
            process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=stream, cwd=ROOT, start_new_session=True)
            code = _wait(process, limits.seconds)
        row = Row(**json.loads(noted.read_text())) if noted.is_file() else Row(name, source, "no reference")
        return row if code == 0 else ended(row, code, errors.read_text(errors="replace"), limits)


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    """Its exit status, None where it had to be ended; nothing that it started outlives it."""
    used, since = 0.0, time.monotonic()
    try:
        while (code := process.poll()) is None:
            now = _cpu_seconds(process.pid)
            if now > used + 0.1:
                used, since = now, time.monotonic()
            if used > seconds or time.monotonic() - since > seconds:
                return None
            time.sleep(0.1)
        return code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _cpu_seconds(pid: int) -> float:
    """Of a process and those of its children that have ended; 0 without /proc, where the clock alone decides."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def limit_memory(gigabytes: float) -> None:
    """Of this process and its children. What is mapped from files is not counted."""
    most = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def ended(row: Row, code: int | None, errors: str, limits: Limits) -> Row:
    """The row of a process that did not come to its end.  code: of its exit, None where it was ended at the limit."""
    lines = errors.strip().splitlines() or [f"exit status {code}"]
    frames = _FRAME.findall(errors)
    place = f" ({frames[-1][0]}:{frames[-1][1]}, {frames[-1][2]})" if frames else ""
    status, message = "traceback", f"{lines[-1]}{place}"
    if code is None:
        status, message = "hang", f"no end within {limits.seconds:g} s of CPU time"
    elif "MemoryError" in lines[-1] or "bad_alloc" in errors:
        status, message = "memory", f"more than {limits.gigabytes:g} GB{place}"
    elif code < 0:
        status, message = f"signal {-code}", signal.Signals(-code).name
    return replace(row, status=row.status if row.phase == "reference" else status, message=f"{message}, in phase {row.phase!r}")
