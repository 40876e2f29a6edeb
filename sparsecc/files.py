"""Writing files so that a crash, a full disk or Ctrl-C leaves the old file whole and nothing half-written beside it."""

from __future__ import annotations

import fcntl
import glob
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from sparsecc.errors import UserError


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary file in the same folder; when the block ends well it takes the place of `path`, otherwise it is deleted.

    Where `path` is a symbolic link, the file that it points to is replaced. What a killed process left behind is deleted.
    Raises UserError, naming the file, when it is no regular one, its folder is missing or cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise UserError(f"{path}: is no regular file, so that it cannot be replaced")
    try:
        with _temporary(target) as temporary:
            yield temporary
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def require_regular(path: str | PathLike[str], error: type[UserError] = UserError) -> None:
    """Raises `error` for a pipe, a device or a socket, which may make a reader wait for ever or never end.

    A missing file or a folder is for who opens it to find.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise error(f"{os.fspath(path)}: is no regular file, so that it is not read; write what it gives to one")


def write_text(path: str | PathLike[str], text: str) -> None:
    """Replace the file's content, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Mapping[str, Any]) -> str:
    """JSON as the standard has it: NaN and infinity, which it has no words for, become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A new file beside `target`, locked as long as it is in use, so that others can tell it from an abandoned one."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o666)
        _lock(descriptor)
        if os.fstat(descriptor).st_nlink:  # else somebody took it for abandoned before it was locked
            break
        os.close(descriptor)
    try:
        _delete_abandoned(target)
        yield temporary
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _delete_abandoned(target: Path) -> None:
    for other in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):
            descriptor = os.open(other, os.O_RDONLY)
            try:
                if _lock(descriptor):
                    other.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the file was free. False on a file system without locks, too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
