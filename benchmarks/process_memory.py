"""What a process holds, read from the system."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def memory(field: str) -> int:
    """VmRSS or VmHWM in bytes; without /proc, the process's peak for both."""
    path = Path("/proc/self/status")
    if not path.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in path.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Let the kernel forget the peak so far. Linux only; elsewhere it is counted in."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")
