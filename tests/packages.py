"""Packages that add members of families, as if they were installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparsecc import patterns, registry


@contextmanager
def installed(folder: Path, name: str, points: str, **modules: str) -> Iterator[None]:
    """A package in an empty folder. points: its entry points, as `entry_points.txt` has them.  modules: their sources by name."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    sys.path.insert(0, str(folder))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in modules:
            sys.modules.pop(module, None)
        _forget()


def _forget() -> None:
    registry._plugins.cache_clear()
    patterns.parse.cache_clear()
