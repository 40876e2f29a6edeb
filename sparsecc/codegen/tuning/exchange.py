"""Records carried from file to file: as JSON lines, merged, and shown.

The first line of an export is `{"format": "sparsecc records", "version": 1}`. Each other line is one measurement, an object with the
fields of `store.Row`; `task`, `knobs` and `target` are JSON texts, kept to the letter, since they are keys.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NoReturn

from sparsecc.codegen.backend import TunableBackend, named
from sparsecc.codegen.tuning.carried import learned
from sparsecc.codegen.tuning.records import best, outcome, read_row, read_target
from sparsecc.codegen.tuning.store import Row, Store
from sparsecc.errors import SparseccError, UserError
from sparsecc.files import naming, require_regular, take_place, temporary_folder, write_text
from sparsecc.timing import Spread

FORMAT, VERSION = "sparsecc records", 1
_TEXTS = ("task", "knobs", "target", "tvm", "kernel", "measured_at")
_TIMES = ("median_us", "p10_us", "p90_us")


def export(source: Path, out: Path) -> int:
    """Write all measurements of a file as JSON lines, in the order of their keys; how many there are."""
    with Store(source, "read") as store:
        rows = store.rows()
    lines = [{"format": FORMAT, "version": VERSION}, *map(asdict, rows)]
    write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(rows)


def load(source: Path, into: Path) -> tuple[int, int]:
    """Read what `export` wrote, check it, and merge it; see `merge`."""
    return _add(read(source), into)


def merge(sources: Sequence[Path], into: Path) -> tuple[int, int]:
    """Add the measurements of files to another one, all or none: how many they are, and how many of them were new or better.

    Of two measurements of the same candidate the better supported one stays, whatever the order: a time before a failure, then the one
    whose 10th and 90th percentiles lie closer together relative to its median, then the earlier one.
    """
    rows = []
    for path in sources:
        with Store(path, "read") as store:
            rows += store.rows()
    return _add(rows, into)


def read(path: Path) -> list[Row]:
    """The measurements of an export. Raises UserError for anything else, with its line."""
    require_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # other ends of a line may stand within a text
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no export of records; `sparsecc records export` writes one") from None
    head = None
    with suppress(ValueError, IndexError):
        head = json.loads(lines[0])
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise UserError(f"{path}: is no export of records; `sparsecc records export` writes one")
    if head.get("version") != VERSION:
        raise UserError(f"{path}: was written by another version of sparsecc (format {head.get('version')}, this one reads {VERSION})")
    return [_row(path, number, line) for number, line in enumerate(lines[1:], 2)]


def _row(path: Path, number: int, line: str) -> Row:
    def refuse(why: str) -> NoReturn:
        raise UserError(f"{path}, line {number}: {why}; nothing was imported")

    try:
        values = json.loads(line)
    except ValueError:
        refuse("is no JSON, or cut off")
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Row)}:
        refuse("is no measurement")
    if not all(isinstance(values[name], str) for name in _TEXTS):
        refuse(f"{', '.join(_TEXTS)} have to be texts")
    times, failure = [values[name] for name in _TIMES], values["failure"]
    if failure is None and not all(type(time) in (int, float) and 0 < time < math.inf for time in times):
        refuse("times have to be above zero")
    if failure is not None and (not isinstance(failure, str) or any(time is not None for time in times)):
        refuse("a failure is a text, and has no times")
    row = Row(**values)
    try:
        dt.datetime.fromisoformat(row.measured_at)
        read_row(row)
    except ValueError as error:
        refuse(str(error).splitlines()[0])
    return row


def _add(rows: Iterable[Row], into: Path) -> tuple[int, int]:
    rows = list(rows)
    if into.exists():
        with Store(into, "write") as store:
            return len(rows), _fill(store, rows)
    with naming(into) as target, temporary_folder(target) as folder:  # with the log that SQLite writes beside it
        made = folder / target.name
        try:
            with Store(made, "write") as store:
                changed = _fill(store, rows)
        except UserError as error:
            raise UserError(str(error).replace(str(made), str(into))) from error
        take_place(made, target)
    return len(rows), changed


def _fill(store: Store, rows: Iterable[Row]) -> int:
    known = {row.key: row for row in store.rows()}
    before = dict(known)
    for row in rows:
        known[row.key] = min(known.get(row.key, row), row, key=_weakness)
    changed = [row for key, row in known.items() if before.get(key) != row]
    if changed:
        store.replace(changed, lambda: learned(store, _targets_here(known.values())))
    return len(changed)


def _targets_here(rows: Iterable[Row]) -> list[Any]:
    """Targets of this machine that have measurements, and of which a cost model can be made."""
    texts = sorted({row.target for row in rows if _use(row, target := read_target(row.target)) == "here" and _is_tunable(target)})
    return [read_target(source) for source in texts]


def _is_tunable(target: Any) -> bool:
    return isinstance(named(target.backend), TunableBackend)


def _weakness(row: Row) -> tuple[Any, ...]:
    """The smaller, the better supported."""
    us = outcome(row).us
    when = dt.datetime.fromisoformat(row.measured_at).astimezone(dt.UTC)
    if us is None:
        return (1, 0.0, when, 0.0, row.failure or "")
    return (0, (us.p90 - us.p10) / us.median, when, us.median, "")


@dataclass(frozen=True)
class Shown:
    """What a file has of one task on one target. use: whether `compile` here would take it, only as a hint, or not at all, as TVM or the
    kernel has changed."""

    target: str
    threads: int
    use: Literal["here", "hint", "outdated"]
    task: str
    measured: int
    failures: int
    best: Spread | None
    knobs: str | None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "best": self.best.to_dict() if self.best else None}


@dataclass(frozen=True)
class ShownModel:
    """A cost model in a file. facts, hints: measurements that it learned from, for its target and for others.  damaged: not as it was
    written; the next `tune` trains it anew."""

    target: str
    threads: int
    kernel: str
    facts: int
    hints: int
    damaged: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        others = f" and {self.hints} for other targets" if self.hints else ""
        damage = "; is damaged, the next `tune` trains it anew" if self.damaged else ""
        return (
            f"cost model of {self.kernel} for {self.target}, {self.threads} threads: learned from {self.facts} measurements{others}{damage}"
        )


def models(path: Path) -> list[ShownModel]:
    """The cost models of a file. Raises UserError for a damaged file."""
    found = []
    with Store(path, "read") as store, store.named_errors():
        for model in store.models():
            target = read_target(model.target)
            found.append(ShownModel(target.name, target.threads, model.kernel, model.facts, model.hints, not model.whole))
    return found


def show(path: Path) -> list[Shown]:
    """By targets, those of this machine first, and tasks. Raises UserError for a damaged file."""
    with Store(path, "read") as store, store.named_errors():
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in store.rows():
            groups.setdefault((row.target, row.task, row.tvm, row.kernel), []).append(row)
        shown = [_shown(rows) for rows in groups.values()]
    return sorted(shown, key=lambda row: (["here", "hint", "outdated"].index(row.use), row.target, row.threads, row.task))


def _shown(rows: Sequence[Row]) -> Shown:
    first = rows[0]
    target, task, _ = read_row(first)
    outcomes = {knobs: outcome(row) for row in rows if (knobs := read_row(row)[2]) is not None}
    known = best(outcomes)
    fastest = outcomes[known.knobs].us if known else None
    return Shown(
        target=target.name,
        threads=target.threads,
        use=_use(first, target),
        task=str(task) if task is not None else first.task,
        measured=len(rows),
        failures=sum(row.failure is not None for row in rows),
        best=fastest,
        knobs=str(known.knobs) if known else None,
    )


def _use(row: Row, target: Any) -> Literal["here", "hint", "outdated"]:
    recorded = named(target.backend).recorded
    assert recorded is not None  # read_row has found it
    kernel = json.loads(row.task)["kernel"]
    if recorded.knobs(kernel) is None or recorded.version(kernel) != row.kernel or row.tvm != metadata.version("apache-tvm"):
        return "outdated"
    with suppress(SparseccError):  # there is nothing of that backend here
        here = named(target.backend).parse(target.backend, target.threads)
        return "here" if recorded.holds_for(here, target) else "hint"
    return "hint"
