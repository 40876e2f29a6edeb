"""Packages of other people, that add members by entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sparsecc import patterns, registry


def install(folder: Path, name: str, points: str, modules: Mapping[str, str]) -> None:
    """A package as pip leaves it in a folder of modules. points: its entry_points.txt.  modules: name → source, with a slash in the name of
    one that lies in a folder."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(points)
    for module, source in modules.items():
        file = folder / f"{module}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)


@contextmanager
def installed(folder: Path, name: str, points: str, modules: Mapping[str, str]) -> Iterator[None]:
    """The same, in an empty folder, while the context lasts."""
    install(folder, name, points, modules)
    sys.path.insert(0, str(folder))
    _forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for module in modules:
            sys.modules.pop(module.replace("/", ".").removesuffix(".__init__"), None)
        _forget()


def _forget() -> None:
    registry._plugins.cache_clear()
    patterns.parse.cache_clear()
