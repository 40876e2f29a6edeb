"""How much memory there is, and giving it back to the system while a model is compiled."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_MEMINFO, _OWN_GROUPS, _GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_SECOND = ("memory.max", "memory.current", "inactive_file")  # what version 2 of Linux' control groups calls limit, use and cache
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def trim() -> None:
    """Return the pages of freed memory: glibc keeps those that lie below something in use, here as many as the model has."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found or (lambda pad: 0)  # other allocators need no such call


def available() -> int:
    """Bytes that this process may still take: what the machine has free, and what each control group leaves that it runs in."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, KeyError, ValueError):
        free = 1024 * _numbers(_MEMINFO)["MemAvailable"]
    return max(min([free, *_left_by_groups()]), 0)


def _left_by_groups() -> Iterator[int]:
    for folder, (limit, used, cache) in _groups():
        with suppress(OSError, KeyError, ValueError):  # it has no limit, which version 2 writes as "max"
            most = int((folder / limit).read_text())
            yield most - int((folder / used).read_text()) + _numbers(folder / "memory.stat")[cache]


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of the groups, inner ones first, and the names in them. In a container the outermost one may be mounted alone."""
    lines: list[str] = []
    with suppress(OSError):
        lines = _OWN_GROUPS.read_text().splitlines()
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, names = (_GROUPS / "memory", _FIRST) if kinds else (_GROUPS, _SECOND)
        inner = top / path.strip("/")
        for folder in (inner, *inner.parents):
            yield folder, names
            if folder == top:
                break


def _numbers(path: Path) -> dict[str, int]:
    """Of lines as `Name: 12 kB` or `name 12`."""
    pairs = (line.replace(":", " ").split()[:2] for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
