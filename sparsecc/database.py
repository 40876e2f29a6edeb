"""SQLite files of ours: opened, checked, and each fault named. What is in them their own classes know.

Whoever kills a writer loses the transaction under way. Several processes may write to one file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, Self

from sparsecc.errors import UserError
from sparsecc.files import require_regular

_PATIENCE = 30.0  # seconds to wait for another process's transaction


class Database:
    """One file, open. A subclass says what such a file is.

    application: a number in the header of each.  schema: the version of its tables.  create: the statement that makes them.
    holds, about: what is in it, "records" of "sparsecc", for errors.  wants: what writes one, for errors.
    write_ahead: whether there is a log beside it, with which a power failure may lose the last transactions, a killed process none.
    """

    application: ClassVar[int]
    schema: ClassVar[int]
    create: ClassVar[str]
    holds: ClassVar[str]
    about: ClassVar[str]
    wants: ClassVar[str]
    write_ahead: ClassVar[bool] = False

    def __init__(self, path: str | os.PathLike[str] | None, mode: Literal["read", "write"]) -> None:
        """write: makes the file when there is none.  path: None keeps all in memory, for as long as this lives. Raises UserError for a file
        that is not ours, damaged, or not accessible."""
        self.path = None if path is None else Path(path)
        with self.named_errors():
            self._connection = sqlite3.connect(":memory:", isolation_level=None) if self.path is None else self._opened(self.path, mode)
            try:
                self._check(mode)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def damaged(self, what: str) -> UserError:
        """For what cannot be read."""
        return UserError(f"{self.path}: is damaged ({what}); restore it, or name another file")

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """SQLite's errors, and those of reading what is in the file, become UserErrors that name it."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: {_says(error)}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: holds no {self.holds}, or damaged ones ({error}); name another file") from error
        except ValueError as error:
            raise self.damaged(str(error).splitlines()[0]) from error

    def _opened(self, path: Path, mode: str) -> sqlite3.Connection:
        require_regular(path)
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file")
        if mode == "read" and not path.exists():
            raise UserError(f"{path}: no such file; {self.wants} writes one")
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}")
        if mode == "write":
            connection = _connected(path, "mode=rwc")
            if self.write_ahead:
                connection.execute("PRAGMA synchronous = NORMAL")
            return connection
        # A reader of a WAL file writes beside it. Where it may not, nobody is writing, unless somebody else's log is there.
        may_write = os.access(path.parent, os.W_OK, effective_ids=True)
        return _connected(path, "mode=ro" if may_write or path.with_name(f"{path.name}-wal").exists() else "immutable=1")

    def _check(self, mode: str) -> None:
        """Ours, whole, and of a version that we know; a new file becomes one."""
        application, schema, tables = self._header()
        if (application, tables) == (0, 0) and mode == "write":
            self._create()
            application, schema, tables = self._header()
        if application != self.application:
            raise UserError(f"{self.path}: is a database, but holds no {self.holds} of {self.about}; name another file")
        if schema != self.schema:
            versions = f"{self.holds} of version {schema}, this one has {self.schema}"
            raise UserError(f"{self.path}: was written by another version of sparsecc ({versions})")
        [damage] = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise self.damaged(damage)
        if mode == "write":
            self._connection.execute("BEGIN IMMEDIATE").execute("ROLLBACK")  # a file that may not be written says so now

    def _header(self) -> tuple[int, int, int]:
        """Application, schema and tables, of one moment: another process may be making the file."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
            try:
                return self._header()
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")
        pragmas = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        return (*pragmas, self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])  # type: ignore[return-value]

    def _create(self) -> None:
        if self.write_ahead:
            self._write_ahead()
        self._connection.execute("BEGIN IMMEDIATE")
        if self._header() == (0, 0, 0):  # no other process was first
            for statement in (self.create, f"PRAGMA application_id = {self.application}", f"PRAGMA user_version = {self.schema}"):
                self._connection.execute(statement)
        self._connection.execute("COMMIT")

    def _write_ahead(self) -> None:
        """Change to WAL, for which SQLite does not wait when another process does the same."""
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.05)


def _connected(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=_PATIENCE, isolation_level=None)


def _says(error: sqlite3.OperationalError) -> str:
    if "locked" in str(error):
        return f"another process has kept it locked for {_PATIENCE:.0f} s"
    return f"cannot be written: {error}" if "readonly" in str(error) or "full" in str(error) else f"cannot be used: {error}"
