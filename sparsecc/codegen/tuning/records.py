"""What was measured, in one SQLite file: by task, knobs, target, TVM's version and the kernel's.

Each measurement is a transaction of its own: whoever kills the tuner loses the one under way. Several processes may write to one file.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from sparsecc.codegen.backend import recorded
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Known
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.errors import UserError
from sparsecc.files import require_regular
from sparsecc.timing import Spread

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
class Outcome:
    """us: of one call; None when the candidate failed, and `failure` says how."""

    us: Spread | None
    failure: str | None = None


def best(outcomes: Mapping[Any, Outcome]) -> Known | None:
    """The fastest of one task; of equal ones the one with the smaller knobs, in whatever order they were measured."""
    times = {knobs: outcome.us.median for knobs, outcome in outcomes.items() if outcome.us}
    fastest = min(times, key=lambda knobs: (times[knobs], astuple(knobs)), default=None)
    return Known(fastest, times[fastest]) if fastest else None


class Records:
    """The measurements in one file that hold for one target, this TVM and these kernels."""

    def __init__(self, path: str | os.PathLike[str], target: Target, mode: Literal["read", "write"]) -> None:
        """write: makes the file when there is none. Raises UserError for a file that is not ours, damaged, or not accessible."""
        self.path = Path(path)
        self._goal, self._kind, self._target = target, type(target), text(target)
        self._recorded, self._tvm = recorded(target), importlib.metadata.version("apache-tvm")
        with self._named_errors():
            self._connection = self._opened(mode)
            try:
                self._check(mode)
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def add(self, task: Any, knobs: Any, outcome: Outcome) -> None:
        """Store a measurement; one that is there already stays."""
        us = outcome.us
        times = (us.median, us.p10, us.p90) if us else (None, None, None)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        row = (text(task), text(knobs), self._target, self._tvm, self._recorded.version(task.kernel), *times, outcome.failure, now)
        with self._named_errors():
            self._connection.execute(f"INSERT OR IGNORE INTO measurements VALUES ({', '.join('?' * len(row))})", row)

    def of(self, task: Any) -> dict[Any, Outcome]:
        """All that is known about a task."""
        return self.all(task).get(task, {})

    def all(self, only: Any = None) -> dict[Any, dict[Any, Outcome]]:
        """All that is known about every task, in the order of tasks and knobs."""
        query = "SELECT task, knobs, kernel, median_us, p10_us, p90_us, failure FROM measurements WHERE tvm = ?"
        values: tuple[str, ...] = (self._tvm,)
        if only is not None:
            query, values = f"{query} AND task = ?", (*values, text(only))
        found: dict[Any, dict[Any, Outcome]] = {}
        with self._named_errors():
            targets = self._targets()
            query, values = f"{query} AND target IN ({', '.join('?' * len(targets))})", (*values, *targets)
            for row in self._connection.execute(f"{query} ORDER BY task, knobs", values):
                self._collect(found, *row)
        return found

    def _targets(self) -> list[str]:
        """Those of the file that say what is fast on this one."""
        known = [row[0] for row in self._connection.execute("SELECT DISTINCT target FROM measurements ORDER BY target")]
        return [source for source in known if source == self._target or self._holds(source)]

    def _holds(self, source: str) -> bool:
        try:
            measured = parse(self._kind, source)
        except ValueError:
            return False  # of another backend
        return self._recorded.holds_for(self._goal, measured)

    def best(self) -> dict[Any, Known]:
        """The fastest knobs of each task."""
        fastest = {task: best(outcomes) for task, outcomes in self.all().items()}
        return {task: known for task, known in fastest.items() if known}

    def _collect(self, found: dict[Any, dict[Any, Outcome]], task_text: str, knobs_text: str, kernel: str, *times: Any) -> None:
        *us, failure = times
        task = parse(self._recorded.task, task_text)
        kind = self._recorded.knobs(task.kernel)
        if kind is None or kernel != self._recorded.version(task.kernel):
            return  # of a kernel that this version has not, or of an earlier version of it
        knobs = parse(kind, knobs_text)
        found.setdefault(task, {})[knobs] = Outcome(Spread(*us) if failure is None else None, failure)

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
    def _named_errors(self) -> Iterator[None]:
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
