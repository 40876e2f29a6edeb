"""Default and tuned knobs of twenty kernel specs kept aside against the best of all knobs.

    python -m benchmarks.ladder.kernels [--cap 200] [--threads 2] [--seconds 2] [--only TEXT] [--records DB] [--out NAME]

Of each spec all knobs are measured or, where there are more than the cap, the default ones and a random sample. Then the tuner looks for
the best in the whole space with a tenth as many measurements. Its file has what was measured of the other nineteen specs, of which it
learns its cost model, and nothing of this one. At the end the default, what the tuner found, and the fastest of all are timed in turns;
of each its fastest round counts, from which a busy machine takes least. Writes benchmarks/results/ladder-kernels.json and .md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.ladder.specs import ASIDE, Subject
from benchmarks.machine import machine
from benchmarks.results import markdown_table, outcome, write
from sparsecc.codegen.calls import recorded
from sparsecc.codegen.cpu import threads as pool
from sparsecc.codegen.cpu.backend import BACKEND
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning.carried import learned
from sparsecc.codegen.tuning.measure import weight_of
from sparsecc.codegen.tuning.measurer import InTurn, Job, Reference
from sparsecc.codegen.tuning.records import Outcome, Records, best
from sparsecc.codegen.tuning.store import Store
from sparsecc.codegen.tuning.text import text
from sparsecc.codegen.tuning.tuner import Budget, tune
from sparsecc.codegen.tuning.worker import Worker
from sparsecc.codegen.tuning.workload import Workload
from sparsecc.timing import interleave

DEFAULT, TUNED = 0.15, 0.05  # what is promised: how much longer than the best
SHARE = 0.1  # of the candidates, that the tuner may measure
_FINALISTS = 3  # of the fastest by the records, which one look may have flattered
_FEWEST = 2  # measurements of the tuner, the default among them

Measure = Callable[[Job], Outcome]


@dataclass(frozen=True)
class Case:
    """A subject with what is measured of it. candidates: the default first."""

    subject: Subject
    task: Task
    weight: Path | None
    space: int
    candidates: list[Knobs]

    @property
    def trials(self) -> int:
        return max(_FEWEST, round(SHARE * len(self.candidates)))

    @staticmethod
    def of(subject: Subject, folder: Path, target: Target, cap: int, seed: int) -> Case:
        task, weight = subject.task(folder, target)
        first, *others = task.space(target)
        drawn = others if len(others) < cap else random.Random(f"{seed} {subject.name}").sample(others, cap - 1)
        return Case(subject, task, weight, len(others) + 1, [first, *drawn])


def main() -> int:
    arguments = _parser().parse_args()
    console, target, start = Console(stderr=True), detect(arguments.threads), time.perf_counter()
    subjects = [subject for subject in ASIDE if arguments.only in subject.name]
    if not subjects:
        console.print(f"no spec has {arguments.only!r} in its name; there are: {', '.join(subject.name for subject in ASIDE)}")
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = [Case.of(subject, folder, target, arguments.cap, arguments.seed) for subject in subjects]
        path = arguments.records or folder / "records.db"
        worker = stack.enter_context(Worker(target))
        with Records(path, target, "write") as records:
            for case in cases:
                with console.status(f"{case.subject.name}: {len(case.candidates)} of {case.space} candidates"):
                    exhaust(case, records, worker.measure)
        rows = []
        for case in cases:
            with console.status(f"{case.subject.name}: tuning with {case.trials} measurements"):
                rows.append(row(case, path, folder, worker.measure, target, arguments))
            console.print(summary(rows[-1]), highlight=False, soft_wrap=True)
    document = {
        "machine": machine(),
        "threads": arguments.threads,
        "cap": arguments.cap,
        "seed": arguments.seed,
        "seconds": time.perf_counter() - start,
        "rows": rows,
        "outcome": outcome(*verdict(rows)),
    }
    table = markdown(document)
    print(table)
    if not arguments.only or arguments.out != _NAME:
        for written in write(arguments.out, document, table):
            print(f"wrote {written}")
    return 0 if document["outcome"]["reached"] else 1


def exhaust(case: Case, records: Records, measure: Measure) -> None:
    """Measure all candidates that have no record, each beside the best so far."""
    known = records.of(case.task)
    for knobs in case.candidates:
        if knobs not in known:
            fastest = best(known)
            reference = Reference(case.task, fastest.knobs, fastest.us) if fastest else None
            known[knobs] = measure(Job(case.task, knobs, case.weight, reference))
            records.add(case.task, knobs, known[knobs])


def row(case: Case, path: Path, folder: Path, measure: Measure, target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    with Records(path, target, "read") as records:
        every = {knobs: found for knobs, found in records.of(case.task).items() if knobs in set(case.candidates)}
    tuned, learned_from = tuned_knobs(case, path, folder / f"{len(list(folder.iterdir()))}.db", measure, target, arguments.seed)
    times = {knobs: found.us.median for knobs, found in every.items() if found.us}
    finalists = sorted(times, key=times.__getitem__)[:_FINALISTS]
    first = case.candidates[0]
    us = timed(case, list(dict.fromkeys([first, tuned, *finalists])), target, arguments.seconds)
    fastest = min(us, key=us.__getitem__)
    return {
        "name": case.subject.name,
        "kernel": case.task.kernel,
        "space": case.space,
        "measured": len(case.candidates),
        "failures": sum(found.us is None for found in every.values()),
        "trials": case.trials,
        "learned_from": learned_from,
        "us": {"default": us[first], "tuned": us[tuned], "best": us[fastest]},
        "knobs": {"default": str(first), "tuned": str(tuned), "best": str(fastest)},
        "default": us[first] / us[fastest] - 1,
        "tuned": us[tuned] / us[fastest] - 1,
        "median": float(np.median(list(times.values()))) / min(times.values()) - 1,
    }


def tuned_knobs(case: Case, path: Path, own: Path, measure: Measure, target: Target, seed: int) -> tuple[Knobs, int]:
    """What the tuner finds in a file `own` that has what `path` has of other tasks; and of how many measurements its first cost model was
    made."""
    with Store(path, "read") as source, Store(own, "write") as store:
        others = [one for one in source.rows() if one.task != text(case.task)]
        store.replace(others, lambda: learned(store, [target]))
        known = next((model.facts for model in store.models() if model.kernel == case.task.kernel), 0)
    workload = Workload(Counter({(case.task,): 1}), {case.task: case.weight} if case.weight else {})
    with Records(own, target, "write") as records:
        [found] = tune(workload, records, target, Budget(trials=case.trials), seed=seed, fleet=InTurn(measure)).tasks
    if found.knobs is None:
        raise RuntimeError(f"{case.subject.name}: none of {case.trials} candidates could be measured")
    return found.knobs, known


def timed(case: Case, knobs: Sequence[Knobs], target: Target, seconds: float) -> dict[Knobs, float]:
    """µs of each one's fastest round, all in turns."""
    weight, calls = weight_of(case.task, case.weight), {}
    for number, one in enumerate(knobs):
        recorded(tape := Tape(target, {}), BACKEND.plan(case.task, one, weight, None, target), case.task.spec)
        calls[str(number)] = tape.run
    timings = pool.run(target.threads, lambda: interleave(calls, seconds=seconds, rounds=10_000, burst=1)).values()
    return {one: 1e6 * min(timing.seconds) for one, timing in zip(knobs, timings, strict=True)}


def kept(found: Mapping[str, Any]) -> bool:
    """Whether the knobs are as near to the best as promised."""
    return bool(found["default"] <= DEFAULT and found["tuned"] <= TUNED)


def verdict(rows: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    words = f"default {_spread(rows, 'default')}, tuned {_spread(rows, 'tuned')}; {sum(map(kept, rows))} of {len(rows)} within both"
    return words, bool(rows) and all(map(kept, rows))


def summary(found: Mapping[str, Any]) -> str:
    return f"{found['name']}: default {found['default']:.1%}, tuned {found['tuned']:.1%} from the best of {found['measured']}"


def markdown(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    about = (
        f"{len(rows)} kernel specs kept aside, {document['threads']} threads: how much longer the default knobs and those that the tuner "
        f"finds take than the best. Where a space has more than {document['cap']} candidates, the best is that of a random sample. The "
        f"tuner measures a tenth as many as were measured for it ({_FEWEST} at least), with a cost model of the other specs. Promised: "
        f"default {DEFAULT:.0%}, tuned {TUNED:.0%}. Found: default {_spread(rows, 'default')}, tuned {_spread(rows, 'tuned')}."
    )
    head = ["spec", "kernel", "measured of", "best µs", "knobs", "median candidate", "default", "tuned", "with", "promise"]
    return f"{about}\n\n" + markdown_table(head, [_cells(found) for found in rows])


def _spread(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    found = [row[name] for row in rows]
    return f"{np.median(found):.1%} in the median and {max(found):.1%} at worst"


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [
        found["name"],
        found["kernel"],
        f"all {found['space']}" if found["measured"] == found["space"] else f"{found['measured']} of {found['space']}",
        f"{found['us']['best']:.1f}",
        found["knobs"]["best"],
        f"+{found['median']:.0%}",
        f"+{found['default']:.1%}",
        f"+{found['tuned']:.1%}",
        str(found["trials"]),
        "reached" if kept(found) else "missed",
    ]


_NAME = "ladder-kernels"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cap", type=int, default=200, metavar="N", help="candidates of each spec at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for the last comparison of each spec")
    parser.add_argument("--seed", type=int, default=0, help="of samples and searches")
    parser.add_argument("--only", default="", metavar="TEXT", help="specs whose names contain it (nothing is written without --out)")
    parser.add_argument("--records", type=Path, metavar="DB", help="go on in this file; left out: a new one, deleted afterwards")
    parser.add_argument("--out", default=_NAME, metavar="NAME", help="of the files in benchmarks/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
