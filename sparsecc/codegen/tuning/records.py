"""What was measured, by task, knobs, target, TVM's version and the kernel's: what of a file holds for one target, and what is a hint."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Any, Literal

from sparsecc.codegen.backend import named, names, recorded
from sparsecc.codegen.target import Target
from sparsecc.codegen.task import Known
from sparsecc.codegen.tuning.store import Model, Row, Store
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.timing import Spread


@dataclass(frozen=True)
class Outcome:
    """us: of one call; None when the candidate failed, and `failure` says how."""

    us: Spread | None
    failure: str | None = None


@dataclass(frozen=True)
class Hint:
    """What was measured for another target: it may say what to try first, and never what is fast here."""

    target: Any
    tasks: Mapping[Any, Mapping[Any, Outcome]]


def best(outcomes: Mapping[Any, Outcome]) -> Known | None:
    """The fastest of one task; of equal ones the one with the smaller knobs, in whatever order they were measured."""
    times = {knobs: outcome.us.median for knobs, outcome in outcomes.items() if outcome.us}
    fastest = min(times, key=lambda knobs: (times[knobs], astuple(knobs)), default=None)
    return Known(fastest, times[fastest]) if fastest else None


class Records:
    """The measurements in one file that hold for one target, this TVM and these kernels."""

    def __init__(self, file: str | os.PathLike[str] | Store, target: Target, mode: Literal["read", "write"]) -> None:
        """file: its path, or the file that is open already.  write: makes the file when there is none.

        Raises UserError for a file that is not ours, damaged, or not accessible."""
        self._goal, self._kind, self._target = target, type(target), text(target)
        self._recorded, self._tvm = recorded(target), importlib.metadata.version("apache-tvm")
        self._store = file if isinstance(file, Store) else Store(file, mode)
        self.path = self._store.path

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def add(self, task: Any, knobs: Any, outcome: Outcome) -> None:
        """Store a measurement; one that is there already stays."""
        us = outcome.us
        times = (us.median, us.p10, us.p90) if us else (None, None, None)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        version = self._recorded.version(task.kernel)
        self._store.add(Row(text(task), text(knobs), self._target, self._tvm, version, *times, outcome.failure, now))

    def of(self, task: Any) -> dict[Any, Outcome]:
        """All that is known about a task."""
        return self._parsed(self._store.rows(tvm=self._tvm, task=text(task)), self._holds).get(task, {})

    def all(self) -> dict[Any, dict[Any, Outcome]]:
        """All that is known about every task, in the order of tasks and knobs."""
        return self._parsed(self._store.rows(tvm=self._tvm), self._holds)

    def best(self) -> dict[Any, Known]:
        """The fastest knobs of each task."""
        fastest = {task: best(outcomes) for task, outcomes in self.all().items()}
        return {task: known for task, known in fastest.items() if known}

    def models(self) -> dict[str, Model]:
        """The cost models of this target, by kernel."""
        return {model.kernel: model for model in self._store.models() if model.target == self._target}

    def keep(self, models: Iterable[Model]) -> None:
        """Store cost models, in the place of those of the same kernels."""
        self._store.keep(models)

    def hints(self) -> list[Hint]:
        """What was measured with these kernels for other targets of this backend."""
        rows = self._store.rows()
        found = []
        for source in sorted({row.target for row in rows}):
            target = self._read_target(source)
            if target is None or self._holds(source):
                continue
            if tasks := self._parsed(rows, source.__eq__):
                found.append(Hint(target, tasks))
        return found

    def _holds(self, source: str) -> bool:
        """Whether what was measured for this target says what is fast on ours."""
        if source == self._target:
            return True
        measured = self._read_target(source)
        return measured is not None and self._recorded.holds_for(self._goal, measured)

    def _read_target(self, source: str) -> Any:
        """None for one of another backend."""
        try:
            return parse(self._kind, source)
        except ValueError:
            return None

    def _parsed(self, rows: Iterable[Row], of_target: Callable[[str], bool]) -> dict[Any, dict[Any, Outcome]]:
        """Without those of kernels that this version has not, or of another version of them."""
        found: dict[Any, dict[Any, Outcome]] = {}
        wanted: dict[str, bool] = {}
        with self._store.named_errors():
            for row in rows:
                if row.target not in wanted:
                    wanted[row.target] = of_target(row.target)
                if not wanted[row.target]:
                    continue
                task = parse(self._recorded.task, row.task)
                kind = self._recorded.knobs(task.kernel)
                if kind is None or row.kernel != self._recorded.version(task.kernel):
                    continue
                found.setdefault(task, {})[parse(kind, row.knobs)] = outcome(row)
        return found


def outcome(row: Row) -> Outcome:
    """Raises ValueError for a measurement without times or failure."""
    if row.failure is not None:
        return Outcome(None, row.failure)
    if row.median_us is None or row.p10_us is None or row.p90_us is None:
        raise ValueError("a measurement has neither times nor a failure")
    return Outcome(Spread(row.median_us, row.p10_us, row.p90_us))


def read_row(row: Row) -> tuple[Any, Any, Any]:
    """Target, task and knobs; the last two are None for a kernel that this version has not. Raises ValueError."""
    target = read_target(row.target)
    kinds = recorded(target)
    task, knobs = json.loads(row.task), json.loads(row.knobs)
    if not isinstance(task, dict) or not isinstance(task.get("kernel"), str) or not isinstance(knobs, dict):
        raise ValueError("task and knobs have to be JSON objects, the task with a kernel")
    kind = kinds.knobs(task["kernel"])
    if kind is None or kinds.version(task["kernel"]) != row.kernel:
        return target, None, None  # of another version, whose words may have been others
    return target, parse(kinds.task, row.task), parse(kind, row.knobs)


def read_target(source: str) -> Any:
    """Raises ValueError for a target of no backend."""
    for name in names():
        backend = named(name)
        with suppress(ValueError):
            if backend.recorded is not None:
                return parse(backend.target, source)
    raise ValueError("the target is of no backend that this version has")
