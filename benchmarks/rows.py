"""Rows of a table in which sparsecc stands beside other engines: compiled, checked, and compared with the baseline of the same run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.peers import Call, Sparsecc, Workload, call_of, max_relative_error
from benchmarks.results import promise
from sparsecc.api import TOLERANCE, tolerance
from sparsecc.timing import Spread, Timing, speedup


class Row(Protocol):
    """What sparsecc is asked for. at_least: how many times faster than the baseline it has to be, None where nothing is promised."""

    @property
    def name(self) -> str: ...
    @property
    def recipe(self) -> dict[str, Any] | None: ...
    @property
    def at_least(self) -> float | None: ...


@dataclass(frozen=True)
class Compiled:
    """One row after compiling: what to call, and what compiling said.  tolerance: of its outputs against the masked model's."""

    call: Call
    seconds: float
    report: dict[str, Any]
    tolerance: float = TOLERANCE


def compile_row(row: Row, work: Workload, threads: int) -> Compiled:
    start = time.perf_counter()
    compiled = Sparsecc(recipe=row.recipe).compile(work, threads)
    return Compiled(call_of(compiled, work), time.perf_counter() - start, compiled.report.to_dict(), tolerance(compiled.report))


def agree(calls: Mapping[str, Call], baseline: str) -> dict[str, float]:
    """Every call's error against the baseline. Raises RuntimeError when one computes something else: then a time says nothing."""
    return agree_with(calls[baseline](), calls, baseline)


def agree_with(reference: Sequence[Any], calls: Mapping[str, Call], whose: str, tolerance: float = TOLERANCE) -> dict[str, float]:
    """`agree`, with outputs at hand.  whose: they are."""
    errors = {name: max_relative_error(call(), reference) for name, call in calls.items()}
    for name, error in errors.items():
        if not error <= tolerance:  # NaN too
            raise RuntimeError(f"{name} and {whose} disagree on the dense model: relative error {error:.1e}, {tolerance:g} allowed")
    return errors


def entry(
    timing: Timing, baseline: Timing, rows: Sequence[Row], compiled: Mapping[str, Compiled], errors: Mapping[str, float]
) -> dict[str, Any]:
    """One row of the document. check: against the masked model for sparsecc, against the baseline for the peers."""
    name = timing.name
    faster = speedup(timing, over=baseline)
    row = next((r for r in rows if r.name == name), None)
    found: dict[str, Any] = {**timing.to_dict(), "speedup": faster.to_dict(), "at_least": None, "reached": None}
    if row is None:
        return found | {"check": {"max_rel": errors[name]}}
    if row.at_least is not None:
        found |= {"at_least": row.at_least, "reached": faster.median >= row.at_least}
    return found | {"check": compiled[name].report["check"], "compile_seconds": compiled[name].seconds}


HEAD = ("engine", "ms", "p10-p90", "times {}", "p10-p90", "at least", "max. relative error", "compile s")


def head(baseline: str) -> list[str]:
    return [title.format(baseline) for title in HEAD]


def cells(entry: Mapping[str, Any]) -> list[str]:
    """Under `head`."""
    ms, faster = Spread(**entry["ms"]), Spread(**entry["speedup"])
    return [
        entry["name"],
        f"{ms.median:.1f}",
        f"{ms.p10:.1f}-{ms.p90:.1f}",
        f"{faster.median:.2f}",
        f"{faster.p10:.2f}-{faster.p90:.2f}",
        promise(entry),
        f"{entry['check']['max_rel']:.1e}" if entry["check"] else "",
        f"{entry['compile_seconds']:.0f}" if "compile_seconds" in entry else "",
    ]
