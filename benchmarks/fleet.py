"""What several servers on one machine bring to tuning: measurements per minute of one and of four, and what is lost when one is killed.

    python -m benchmarks.fleet [--servers 4] [--threads 1] [--seconds 60] [--trials 60]

The candidates are kernels of BERT-base's layers at 128 tokens, whose compilation takes most of the time. Tracker and servers are processes
of their own, and so started by each run. Writes benchmarks/results/fleet.json and .md; exits with 1 when a promise is missed.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import machine
from benchmarks.results import markdown_table, outcome, promise, write
from benchmarks.tuning import cases
from sparsecc.codegen.cpu.target import Target, detect
from sparsecc.codegen.tuning.fleet import Fleet
from sparsecc.codegen.tuning.records import Records
from sparsecc.codegen.tuning.result import TuningResult
from sparsecc.codegen.tuning.tracker import Address
from sparsecc.codegen.tuning.tuner import Budget, Progress, tune
from sparsecc.codegen.tuning.workload import Workload

AT_LEAST = 1.7  # times the measurements per minute of one server, on two cores
KEY = "benchmark"
_START_S = 60.0


@dataclass(frozen=True)
class Run:
    """One row. killed: servers ended in the middle.  kept: measurements in the records afterwards."""

    servers: int
    killed: int
    asked: int | None
    measured: int
    kept: int
    seconds: float

    @property
    def per_minute(self) -> float:
        return 60 * self.measured / self.seconds


def main() -> int:
    arguments = _parser().parse_args()
    console, target = Console(), detect(arguments.threads)
    with tempfile.TemporaryDirectory() as name, _tracker() as tracker:
        folder = Path(name)
        made = list(cases(folder))
        workload = Workload(Counter({(case.task,): case.shape.layers for case in made}), {case.task: case.weight for case in made})

        def run(label: str, servers: int, budget: Budget, kill: bool = False) -> Run:
            with console.status(label), Records(folder / f"{label}.db", target, "write") as records:
                return measured(workload, records, target, tracker, servers, budget, kill)

        one = run("one server", 1, Budget(seconds=arguments.seconds))
        all_of_them = run("all servers", arguments.servers, Budget(seconds=arguments.seconds))
        killed = run("one killed", arguments.servers, Budget(trials=arguments.trials), kill=True)
    document = {
        "machine": machine(),
        "threads": arguments.threads,
        "seconds": arguments.seconds,
        "rows": [row(one, one), row(all_of_them, one, AT_LEAST), row(killed, one)],
        "lost": arguments.trials - killed.kept,
    }
    document |= {"outcome": outcome(*verdict(document))}
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    for path in write("fleet", document, table):
        console.print(f"wrote {path}")
    return 0 if document["outcome"]["reached"] else 1


def verdict(document: dict[str, Any]) -> tuple[str, bool]:
    promised = [each for each in document["rows"] if each["at_least"] is not None]
    times = ", ".join(f"{each['servers']} servers {each['times_one']:.2f} times one" for each in promised)
    return f"{times}; lost by killing one: {document['lost']}", not document["lost"] and all(each["reached"] for each in promised)


def measured(workload: Workload, records: Records, target: Target, tracker: Address, servers: int, budget: Budget, kill: bool) -> Run:
    """kill: end one server, as by `kill -9`, when half the trials are made."""
    with _servers(tracker, servers, target.threads) as processes, Fleet(target, tracker, KEY) as fleet:

        def watch(now: Progress) -> None:
            if kill and now.share >= 0.5:
                processes[0].kill()

        result: TuningResult = tune(workload, records, target, budget, progress=watch, fleet=fleet)
    kept = sum(map(len, records.all().values()))
    return Run(servers, int(kill), budget.trials, result.measured, kept, result.seconds)


def row(run: Run, one: Run, at_least: float | None = None) -> dict[str, Any]:
    times = run.per_minute / one.per_minute
    return {
        "servers": run.servers,
        "killed": run.killed,
        "asked": run.asked,
        "measured": run.measured,
        "kept": run.kept,
        "seconds": run.seconds,
        "per_minute": run.per_minute,
        "times_one": times,
        "at_least": at_least,
        "reached": None if at_least is None else times >= at_least,
    }


def markdown(document: dict[str, Any]) -> str:
    head = ["servers", "killed", "measured", "in the records", "s", "per minute", "times one", "promised at least"]
    title = (
        f"BERT-base's sparse kernels, {document['threads']} threads a server, all on one machine; lost by killing one: {document['lost']}"
    )
    return f"{title}\n\n" + markdown_table(head, [_cells(row) for row in document["rows"]])


def _cells(row: dict[str, Any]) -> list[Any]:
    return [
        row["servers"],
        row["killed"],
        row["measured"],
        row["kept"],
        f"{row['seconds']:.0f}",
        f"{row['per_minute']:.0f}",
        f"{row['times_one']:.2f}",
        promise(row),
    ]


@contextmanager
def _tracker() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = Address("127.0.0.1", taken.getsockname()[1])
    place = ["--host", where.host, "--port", str(where.port), "--port-end", str(where.port + 1), "--silent"]
    with _process(["-m", "tvm.exec.rpc_tracker", *place]) as process:
        until = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(where, 1.0).close()
                break
            except OSError:
                if time.monotonic() > until or process.poll() is not None:
                    raise RuntimeError("TVM's tracker does not start; it needs tornado: pip install 'sparsecc[tune]'") from None
                time.sleep(0.1)
        yield where


@contextmanager
def _servers(tracker: Address, count: int, threads: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Ready, in the order in which they were started."""
    if count == 0:
        yield []
        return
    options = ["--tracker", str(tracker), "--key", KEY, "--threads", str(threads)]
    with _process(["-m", "sparsecc", "worker", *options]) as server, _servers(tracker, count - 1, threads) as others:
        assert server.stderr is not None
        if not select.select([server.stderr], [], [], _START_S)[0] or not server.stderr.readline().startswith("ready"):
            raise RuntimeError("a server does not start")
        yield [server, *others]


@contextmanager
def _process(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """With all that it starts, which ends with it."""
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("--seconds", type=float, default=60, help="for one server, and for all of them")
    parser.add_argument("--trials", type=int, default=60, help="measurements of the run in which one is killed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
