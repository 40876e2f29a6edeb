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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.coverage.row import Row

ROOT = Path(__file__).parents[2]
_FRAME = re.compile(r'File "(?:.*/)?(sparsecc/[^"]+)", line (\d+), in (\w+)')


@dataclass(frozen=True)
class Limits:
    """seconds: from start to end.  gigabytes: of memory that the process may write to."""

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
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


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
        status, message = "hang", f"no end within {limits.seconds:g} s"
    elif "MemoryError" in lines[-1] or "bad_alloc" in errors:
        status, message = "memory", f"more than {limits.gigabytes:g} GB{place}"
    elif code < 0:
        status, message = f"signal {-code}", signal.Signals(-code).name
    return replace(row, status=row.status if row.phase == "reference" else status, message=f"{message}, in phase {row.phase!r}")
