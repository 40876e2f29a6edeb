"""What a search has measured, line by line in a file: whoever kills it loses the measurement that was going on, and no other.

Each line is JSON: a key, which says what was measured on what, and a value. Lines are written whole and brought to the disk at once; a last
line without an end is what was being written when the process ended, and is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any

from sparsecc.errors import UserError
from sparsecc.files import require_regular

VERSION = 1


def key_of(*parts: Any) -> str:
    """One name for what a measurement depends on. parts: JSON can write them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


class Journal:
    """Opened for one process at a time. values: all that is known, by key.

    Raises UserError for a file that is no journal, that another process has open, or that cannot be written."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        require_regular(path, UserError)
        with self._named_errors():
            self._file: IO[bytes] = self.path.open("a+b")
            self._lock()
        self.values = self._read()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def of(self, key: str, measure: Callable[[], Any]) -> Any:
        """The value, measured now where it is not known. measure: gives what JSON can write."""
        if key not in self.values:
            self._append({"key": key, "value": (value := measure())})
            self.values[key] = value
        return self.values[key]

    def _append(self, entry: dict[str, Any]) -> None:
        with self._named_errors():
            self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def _read(self) -> dict[str, Any]:
        self._file.seek(0)
        content = self._file.read()
        if not content:
            self._append({"sparsecc search": VERSION})
            return {}
        whole, _, cut = content.rpartition(b"\n")
        if cut:
            self._file.truncate(len(whole) + 1 if whole else 0)
        try:
            head, *entries = (json.loads(line) for line in whole.split(b"\n"))
            if head["sparsecc search"] != VERSION:
                raise UserError(f"{self.path}: a search of version {head['sparsecc search']}, this sparsecc reads {VERSION}; start anew")
            return {entry["key"]: entry["value"] for entry in entries}
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.path}: holds no search of sparsecc, or a damaged one; name another folder") from None

    def _lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{self.path}: another process searches here; name another folder") from None

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror or error}; what was measured before is kept") from None
