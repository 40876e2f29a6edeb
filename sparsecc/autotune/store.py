"""What was measured on whole models, in one SQLite file beside the records of kernels: JSON by a key that says of what.

Each measurement is a transaction of its own: whoever kills a search loses the one under way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from sparsecc.database import Database

Key = Mapping[str, Any]


class Store(Database):
    """Measurements in a file; None keeps them in memory only, for as long as the store lives."""

    application = 0x5350434D  # "SPCM"
    schema = 1
    create = "CREATE TABLE measurements (key TEXT NOT NULL PRIMARY KEY, found TEXT NOT NULL)"
    holds, about, wants = "measurements", "whole models", "`sparsecc tune --goal`"

    def __init__(self, path: str | PathLike[str] | None = None) -> None:
        """The file is made when there is none. Raises UserError for one that is not ours, damaged, or not accessible."""
        super().__init__(path, "write")

    def get(self, key: Key) -> Any:
        """What is kept under a key, None for nothing."""
        with self.named_errors():
            row = self._connection.execute("SELECT found FROM measurements WHERE key = ?", (_text(key),)).fetchone()
            return None if row is None else json.loads(row[0])

    def put(self, key: Key, found: Any) -> None:
        """Keep a measurement, durably, before this returns; one that is there already stays.  found: as JSON has it."""
        with self.named_errors():
            self._connection.execute("INSERT OR IGNORE INTO measurements VALUES (?, ?)", (_text(key), json.dumps(found)))

    def of(self, key: Key, measure: Callable[[], Any]) -> Any:
        """What is kept under a key, measured now where nothing is. measure: gives what JSON has."""
        found = self.get(key)
        if found is None:
            self.put(key, found := measure())
        return found


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True)
