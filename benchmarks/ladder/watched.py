"""`sparsecc`, which notes in a file what it begins to measure, and what it has measured, before any of it is kept.

    python -m benchmarks.ladder.watched LOG tune MODEL --goal ...

Lines are {"begun": KEY} and {"measured": KEY}; each is written by one call of the system, so that it is there whenever the process is killed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from sparsecc.autotune.store import Key, Store
from sparsecc.cli import main


class Watched:
    """Stands before `Store.of`."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._of = Store.of

    def __call__(self, store: Store, key: Key, measure: Callable[[], Any]) -> Any:
        def watched() -> Any:
            self._note("begun", key)
            found = measure()
            self._note("measured", key)
            return found

        return self._of(store, key, watched)

    def _note(self, what: str, key: Key) -> None:
        os.write(self._file, (json.dumps({what: key}, sort_keys=True) + "\n").encode())


if __name__ == "__main__":
    log = sys.argv.pop(1)
    watch = Watched(log)
    Store.of = lambda store, key, measure: watch(store, key, measure)  # type: ignore[method-assign]
    main()
