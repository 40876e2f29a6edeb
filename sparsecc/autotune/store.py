"""What was measured on whole models, in one SQLite file beside the records of kernels: JSON by a key that says of what.

Each measurement is a transaction of its own: whoever kills a search loses the one under way.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from sparsecc.errors import UserError
from sparsecc.files import require_regular

_APPLICATION = 0x5350434D  # "SPCM", in the header of each file of ours
_SCHEMA = 1
_PATIENCE = 30.0  # seconds to wait for another process's transaction
_CREATE = "CREATE TABLE measurements (key TEXT NOT NULL PRIMARY KEY, found TEXT NOT NULL)"
Key = Mapping[str, Any]


class Store:
    """Measurements in a file; None keeps them in memory only, for as long as the store lives."""

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        """The file is made when there is none. Raises UserError for one that is not ours, damaged, or not accessible."""
        self.path = None if path is None else Path(path)
        with self._named_errors():
            self._connection = self._opened()
            try:
                self._check()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def get(self, key: Key) -> Any:
        """What is kept under a key, None for nothing."""
        with self._named_errors():
            row = self._connection.execute("SELECT found FROM measurements WHERE key = ?", (_text(key),)).fetchone()
            return None if row is None else json.loads(row[0])

    def put(self, key: Key, found: Any) -> None:
        """Keep a measurement, durably, before this returns; one that is there already stays.  found: as JSON has it."""
        with self._named_errors():
            self._connection.execute("INSERT OR IGNORE INTO measurements VALUES (?, ?)", (_text(key), json.dumps(found)))

    def of(self, key: Key, measure: Callable[[], Any]) -> Any:
        """What is kept under a key, measured now where nothing is. measure: gives what JSON has."""
        found = self.get(key)
        if found is None:
            self.put(key, found := measure())
        return found

    def damaged(self, what: str) -> UserError:
        """For a measurement that cannot be read."""
        return UserError(f"{self.path}: is damaged ({what}); restore it, or name another file")

    def _opened(self) -> sqlite3.Connection:
        if self.path is None:
            return sqlite3.connect(":memory:", isolation_level=None)
        require_regular(self.path)
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder; name a file")
        if not self.path.parent.is_dir():
            raise UserError(f"{self.path}: there is no folder {self.path.parent}")
        return sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)

    def _check(self) -> None:
        """Ours, whole, and of a version that we know; a new file becomes one."""
        self._connection.execute("BEGIN IMMEDIATE")  # a file that may not be written says so now
        try:
            if self._header() == (0, 0, 0):
                for statement in (_CREATE, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {_SCHEMA}"):
                    self._connection.execute(statement)
            application, schema, _ = self._header()
        finally:
            self._connection.execute("COMMIT")
        if application != _APPLICATION:
            raise UserError(f"{self.path}: is a database, but holds no measurements of whole models; name another file")
        if schema != _SCHEMA:
            raise UserError(f"{self.path}: was written by another version of sparsecc ({schema}, this one has {_SCHEMA})")
        [damage] = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise self.damaged(damage)

    def _header(self) -> tuple[int, int, int]:
        """Application, schema, tables."""
        application, schema = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        return application, schema, self._connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: {_says(error)}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: holds no measurements, or damaged ones ({error}); name another file") from error
        except ValueError as error:
            raise self.damaged(str(error).splitlines()[0]) from error


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


def _says(error: sqlite3.OperationalError) -> str:
    if "locked" in str(error):
        return f"another process has kept it locked for {_PATIENCE:.0f} s"
    return f"cannot be used: {error}"
