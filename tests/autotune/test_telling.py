from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sparsecc.autotune.budget import Budget
from sparsecc.autotune.search import Tried
from sparsecc.autotune.telling import tell, with_time
from sparsecc.calibration.context import Progress


def test_notes_name_the_best_and_the_minutes_left() -> None:
    heard: list[Progress] = []
    told = with_time(heard.append, Budget(3.0, lambda: 0.0))
    fast, slow = (Tried({}, ms, 1.0, 0.0, {}, recovered) for ms, recovered in ((1.0, True), (2.0, False)))
    looking: Any = SimpleNamespace(best=slow, tried=[slow, fast])
    tell(told, fast, looking)
    assert heard == [Progress("recovering models", 1, 2, "1.00 ms, best so far 2.00 ms, 3.0 minutes left")]


def test_nobody_listens() -> None:
    assert with_time(None, Budget(1.0)) is None
