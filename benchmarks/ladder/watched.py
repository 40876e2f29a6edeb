"""`sparsecc`, which notes in a file what it begins to measure, and what it has measured, before any of it is kept.

    python -m benchmarks.ladder.watched LOG RUNGS tune MODEL --goal ...

RUNGS are those that layers may take, joined by commas. Lines of the log are {"begun": KEY} and {"measured": KEY}; each is written by one
call of the system, so that it is there whenever the process is killed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from sparsecc.api.trials import Trials
from sparsecc.autotune import tune
from sparsecc.autotune.rungs import Rung
from sparsecc.autotune.store import Key, Store
from sparsecc.cli import main


def watch(path: str) -> None:
    """From now on, what a store does not know when it is asked to have it measured is begun, and has been measured before it is kept."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    of = Store.of

    def note(what: str, key: Key) -> None:
        os.write(file, (json.dumps({what: key}, sort_keys=True) + "\n").encode())

    def noting(self: Store, key: Key, measure: Callable[[], Any]) -> Any:
        def noted() -> Any:
            note("begun", key)
            found = measure()
            note("measured", key)
            return found

        return of(self, key, noted)

    Store.of = noting  # type: ignore[method-assign]


def limit(names: str) -> None:
    """The rungs of every search."""
    rungs = tuple(Rung.parse(name) for name in names.split(","))

    def ladder_of(trials: Trials) -> tuple[Rung, ...]:
        return rungs

    tune.ladder_of = ladder_of


if __name__ == "__main__":
    watch(sys.argv[1])
    limit(sys.argv[2])
    sys.exit(main(sys.argv[3:]))
