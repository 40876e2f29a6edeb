"""One SQLite file of measurements, as text, whatever they are of: opened, checked, added to, each fault named.

Each measurement is a transaction of its own: whoever kills a writer loses the one under way. Several processes may write to one file.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

from sparsecc.errors import UserError
from sparsecc.files import require_regular

_APPLICATION = 0x53504343  # "SPCC", in the header of each file of ours
_SCHEMA = 1
_PATIENCE = 30.0  # seconds to wait for another process's transaction
_CREATE = """
CREATE TABLE measurements (
    task TEXT NOT NULL, knobs TEXT NOT NULL, target TEXT NOT NULL, tvm TEXT NOT NULL, kernel TEXT NOT NULL,
    median_us REAL, p10_us REAL, p90_us REAL, failure TEXT, measured_at TEXT NOT NULL,
    PRIMARY KEY (task, knobs, target, tvm, kernel), CHECK ((median_us IS NULL) = (failure IS NOT NULL))
)
"""


@dataclass(frozen=True)
class Row:
    """One measurement. task, knobs, target: JSON, as `text` has it.  tvm: its version.  kernel: a digest of the code that generates it.
    The times are None where there is a `failure`.  measured_at: ISO 8601."""

    task: str
    knobs: str
    target: str
    tvm: str
    kernel: str
    median_us: float | None
    p10_us: float | None
    p90_us: float | None
    failure: str | None
    measured_at: str

    @property
    def key(self) -> tuple[str, ...]:
        """There is one measurement of each."""
        return self.task, self.knobs, self.target, self.tvm, self.kernel


_COLUMNS = ", ".join(field.name for field in fields(Row))
_PLACES = ", ".join("?" for _ in fields(Row))


class Store:
    """The file, open."""

    def __init__(self, path: str | os.PathLike[str], mode: Literal["read", "write"]) -> None:
        """write: makes the file when there is none. Raises UserError for a file that is not ours, damaged, or not accessible."""
        self.path = Path(path)
        with self.named_errors():
            self._connection = self._opened(mode)
            try:
                self._check(mode)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def add(self, row: Row) -> None:
        """Store a measurement; one that is there already stays."""
        with self.named_errors():
            self._connection.execute(f"INSERT OR IGNORE INTO measurements VALUES ({_PLACES})", astuple(row))

    def replace(self, rows: Iterable[Row]) -> None:
        """Store measurements in the place of what is there: all of them or, where that fails, none."""
        with self.named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(f"INSERT OR REPLACE INTO measurements VALUES ({_PLACES})", map(astuple, rows))
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, **only: str) -> list[Row]:
        """In the order of their keys. only: columns and the value that they have to have."""
        where = " AND ".join(f"{column} = ?" for column in only) or "TRUE"
        query = f"SELECT {_COLUMNS} FROM measurements WHERE {where} ORDER BY task, knobs, target, tvm, kernel"
        with self.named_errors():
            return [Row(*values) for values in self._connection.execute(query, tuple(only.values()))]

    def _opened(self, mode: str) -> sqlite3.Connection:
        require_regular(self.path)
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder; name a file")
        if mode == "read" and not self.path.exists():
            raise UserError(f"{self.path}: no such file; `sparsecc tune` writes one")
        if not self.path.parent.is_dir():
            raise UserError(f"{self.path}: there is no folder {self.path.parent}")
        if mode == "write":
            connection = self._connect("mode=rwc")
            connection.execute("PRAGMA synchronous = NORMAL")  # with WAL a killed process loses nothing, a power failure the last few
            return connection
        # A reader of a WAL file writes beside it. Where it may not, nobody is writing, unless somebody else's log is there.
        may_write = os.access(self.path.parent, os.W_OK, effective_ids=True)
        return self._connect("mode=ro" if may_write or self.path.with_name(f"{self.path.name}-wal").exists() else "immutable=1")

    def _connect(self, options: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?{options}", uri=True, timeout=_PATIENCE, isolation_level=None)

    def _check(self, mode: str) -> None:
        """Ours, whole, and of a version that we know; a new file becomes one."""
        application, schema, tables = self._header()
        if (application, tables) == (0, 0) and mode == "write":
            self._create()
            application, schema, tables = self._header()
        if application != _APPLICATION:
            raise UserError(f"{self.path}: is a database, but holds no records of sparsecc; name another file")
        if schema != _SCHEMA:
            raise UserError(
                f"{self.path}: was written by another version of sparsecc (records of version {schema}, this one has {_SCHEMA})"
            )
        [damage] = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise UserError(f"{self.path}: is damaged ({damage}); restore it, or name another file")
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
        self._write_ahead()
        self._connection.execute("BEGIN IMMEDIATE")
        if self._header() == (0, 0, 0):  # no other process was first
            for statement in (_CREATE, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {_SCHEMA}"):
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

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: {_says(error)}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: holds no records, or damaged ones ({error}); name another file") from error
        except ValueError as error:
            raise UserError(f"{self.path}: is damaged ({str(error).splitlines()[0]}); restore it, or name another file") from error


def _says(error: sqlite3.OperationalError) -> str:
    if "locked" in str(error):
        return f"another process has kept it locked for {_PATIENCE:.0f} s"
    return f"cannot be written: {error}" if "readonly" in str(error) or "full" in str(error) else f"cannot be used: {error}"
