"""Writing files so that a crash, a full disk or Ctrl-C leaves the old file whole and nothing half-written beside it."""

# pyright: reportUnknownArgumentType=false, reportUnknownVariableType=false
# What JSON is made of comes as Any, and stays that.

from __future__ import annotations

import fcntl
import glob
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from sparsecc.errors import UserError


@contextmanager
def replacing(path: str | PathLike[str]) -> Generator[Path, None, None]:
    """A temporary file in the same folder; when the block ends well it takes the place of `path`, otherwise it is deleted.

    Where `path` is a symbolic link, the file that it points to is replaced; its mode and owner stay. What a killed process left behind is
    deleted. Raises UserError, naming the file, when it is no regular one, its folder is missing or cannot be written, or the disk is full.
    """
    with naming(path) as target, _temporary(target) as temporary:
        yield temporary
        take_place(temporary, target)


@contextmanager
def naming(path: str | PathLike[str]) -> Generator[Path, None, None]:
    """The file to be written, links followed. What the system refuses in the block becomes a UserError that names it."""
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise UserError(f"{path}: is {'a folder' if target.is_dir() else 'no regular file'}, so that it cannot be replaced")
        yield target
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def temporary_folder(target: Path) -> Generator[Path, None, None]:
    """A folder beside `target`, to write in what will take places there. It is deleted, and so is what killed processes left."""
    with _temporary(target, folder=True) as folder:
        yield folder


@contextmanager
def scratch_folder() -> Generator[Path, None, None]:
    """A folder where the system has temporary files. Raises UserError, naming it, when nothing can be written there."""
    place = Path(tempfile.gettempdir())
    try:
        made = _temporary(place / "sparsecc", folder=True)
        folder = made.__enter__()
    except OSError as error:
        raise UserError(f"{place}: cannot be written: {error.strerror or error}; name another folder in TMPDIR") from None
    with ExitStack() as stack:
        stack.push(made)
        yield folder


@contextmanager
def only_one(folder: Path) -> Generator[bool, None, None]:
    """Wait until no other process is in such a block for this folder. False on a file system without locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(descriptor, wait=True)
    finally:
        os.close(descriptor)


def take_place(temporary: Path, target: Path) -> None:
    """Put a whole file where `target` is, or may be, and let it have its mode and owner."""
    with suppress(FileNotFoundError):
        old = target.stat()
        with suppress(OSError):  # somebody else's file, which we may replace, and not give away
            os.chown(temporary, old.st_uid, old.st_gid)
        temporary.chmod(stat.S_IMODE(old.st_mode))
    _sync(temporary)
    temporary.replace(target)
    _sync(target.parent)


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
def _temporary(target: Path, folder: bool = False) -> Generator[Path, None, None]:
    """A new file or folder beside `target`, locked as long as it is in use, so that others can tell it from an abandoned one."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        descriptor = _made(temporary, folder, private=target.exists())
        if descriptor is None:
            continue
        _lock(descriptor, wait=True)
        if temporary.exists():  # else somebody took it for abandoned before it was locked
            break
        os.close(descriptor)
    try:
        _delete_abandoned(target)
        yield temporary
    finally:
        os.close(descriptor)
        _delete(temporary)


def _made(path: Path, folder: bool, private: bool) -> int | None:
    """A descriptor of it; None where somebody took the folder for abandoned before it was opened.

    private: what takes the place of a file that others must not read is not theirs to read while it is written.
    """
    if not folder:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600 if private else 0o666)
    path.mkdir(0o700)
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


def _delete_abandoned(target: Path) -> None:
    for other in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):
            descriptor = os.open(other, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                if _lock(descriptor):
                    _delete(other)
            finally:
                os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(descriptor: int, wait: bool = False) -> bool:
    """Whether the file is ours now. False on a file system without locks, too."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
