"""One SQLite file of measurements, as text, whatever they are of, and of what was learned from them. Each measurement is a transaction of
its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields

from sparsecc.database import Database

_CREATE = """
CREATE TABLE measurements (
    task TEXT NOT NULL, knobs TEXT NOT NULL, target TEXT NOT NULL, tvm TEXT NOT NULL, kernel TEXT NOT NULL,
    median_us REAL, p10_us REAL, p90_us REAL, failure TEXT, measured_at TEXT NOT NULL,
    PRIMARY KEY (task, knobs, target, tvm, kernel), CHECK ((median_us IS NULL) = (failure IS NOT NULL))
)
"""

_CREATE_MODELS = """
CREATE TABLE IF NOT EXISTS models (
    target TEXT NOT NULL, kernel TEXT NOT NULL, facts INTEGER NOT NULL, hints INTEGER NOT NULL, samples TEXT NOT NULL,
    raw BLOB NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (target, kernel)
)
"""  # files of earlier versions have none until something is written


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


@dataclass(frozen=True)
class Model:
    """A cost model. target: JSON.  kernel: its name.  facts, hints: measurements that it learned from, for its own target and for others.
    samples: a digest of these.  raw: as xgboost has it.  digest: of `raw`."""

    target: str
    kernel: str
    facts: int
    hints: int
    samples: str
    raw: bytes
    digest: str

    @classmethod
    def of(cls, target: str, kernel: str, facts: int, hints: int, samples: str, raw: bytes) -> Model:
        return cls(target, kernel, facts, hints, samples, raw, hashlib.sha256(raw).hexdigest())

    @property
    def whole(self) -> bool:
        return self.digest == hashlib.sha256(self.raw).hexdigest()


_COLUMNS = ", ".join(field.name for field in fields(Row))
_PLACES = ", ".join("?" for _ in fields(Row))


class Store(Database):
    """The file, open."""

    application = 0x53504343  # "SPCC"
    schema = 1
    create = _CREATE
    holds, about, wants = "records", "sparsecc", "`sparsecc tune`"
    write_ahead = True

    def add(self, row: Row) -> None:
        """Store a measurement; one that is there already stays."""
        with self.named_errors():
            self._connection.execute(f"INSERT OR IGNORE INTO measurements VALUES ({_PLACES})", astuple(row))

    def replace(self, rows: Iterable[Row], learn: Callable[[], Iterable[Model]]) -> None:
        """Store measurements in the place of what is there, and as the only models what `learn` makes of all: or, where that fails,
        nothing."""
        with self._all_or_nothing():
            self._connection.executemany(f"INSERT OR REPLACE INTO measurements VALUES ({_PLACES})", map(astuple, rows))
            self._connection.execute("DELETE FROM models")
            self._add_models(learn())

    def keep(self, models: Iterable[Model]) -> None:
        """Store models in the place of those of the same kernels and targets."""
        with self._all_or_nothing():
            self._add_models(models)

    def _add_models(self, models: Iterable[Model]) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?, ?, ?, ?)", map(astuple, models))

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        with self.named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute(_CREATE_MODELS)
                yield
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

    def models(self) -> list[Model]:
        """In the order of targets and kernels."""
        with self.named_errors():
            if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'models'").fetchone():
                return []
            return [Model(*values) for values in self._connection.execute("SELECT * FROM models ORDER BY target, kernel")]
