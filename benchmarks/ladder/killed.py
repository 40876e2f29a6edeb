"""`kill -9` of `sparsecc tune --goal` at random moments: what is lost, and whether the same command ends where it would have ended.

    python -m benchmarks.ladder.killed [--times 20] [--seed 0] [--threads 1]

A search for a small model runs once undisturbed. Then it is begun anew, killed at a moment drawn from the time that this took, and begun
again by the same command. Lost is what was begun before the kill and is not in the store after it. The goal bounds bytes, so that the
clock, which never says the same thing twice, has no part in the choice. Writes benchmarks/results/ladder-killed.json and .md; exits with 1
when more than one measurement was lost, one that was kept was made again or changed, or the recipe is another.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.results import markdown_table, outcome, write
from sparsecc.autotune.account import RECIPE
from sparsecc.autotune.tune import STORE

WIDTHS = (256, 512, 512, 128)  # at which the kernels of RUNGS are faster than dense ones beyond doubt, so that what is stored is the same
GOAL = "bytes<=300kB"  # of 1835 kB; int8 alone takes 464
RUNGS = "int8,unstructured 90%,4x1 80%,int8 1x4 80%"
_BATCH = 64
_LIMIT_S = 300.0  # for a whole search
_TIMES = 20


@dataclass(frozen=True)
class Kill:
    """One of the runs. seconds: after which it was killed.  kept: measurements in the store after that.  lost: begun before, not kept; a
    kernel that is timed for a model under way is a part of that.  again: kept, and measured again all the same.  changed: kept, and another
    afterwards.  same: whether the recipe is that of the undisturbed run."""

    seconds: float
    kept: int
    lost: int
    again: int
    changed: int
    same: bool

    @property
    def right(self) -> bool:
        return self.lost <= 1 and not self.again and not self.changed and self.same


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        document = measured(arguments, Path(name), console)
    table = markdown(document)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    if arguments.times == _TIMES:
        for path in write("ladder-killed", document, table):
            console.print(f"wrote {path}")
    return 0 if document["outcome"]["reached"] else 1


def measured(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    model(folder / "model.onnx")
    np.savez(folder / "samples.npz", x=np.random.default_rng(1).standard_normal((16 * _BATCH, WIDTHS[0])).astype(np.float32))
    start = time.perf_counter()
    undisturbed = Run(folder, "undisturbed", arguments.threads)
    undisturbed.finish()
    seconds = time.perf_counter() - start
    console.print(f"undisturbed: {seconds:.0f} s, {len(undisturbed.stored())} measurements", highlight=False)
    drawn, kills = random.Random(arguments.seed), []
    for number in range(arguments.times):
        with console.status(f"kill {number + 1} of {arguments.times}"):
            kills.append(killed(Run(folder, f"killed-{number}", arguments.threads), drawn.uniform(0, seconds), undisturbed.recipe))
        console.print(str(kills[-1]), highlight=False)
    return {
        "machine": machine(),
        "threads": arguments.threads,
        "seed": arguments.seed,
        "seconds": seconds,
        "measurements": len(undisturbed.stored()),
        "kills": [asdict(kill) for kill in kills],
        "outcome": outcome(*verdict(kills)),
    }


def killed(run: Run, seconds: float, undisturbed: str) -> Kill:
    run.kill(seconds)
    begun, measured, before = run.noted("begun"), run.noted("measured"), run.stored()
    run.finish()
    return compared(seconds, begun, before, run.noted("measured")[len(measured) :], run.stored(), run.recipe == undisturbed)


def compared(
    seconds: float, begun: Sequence[str], before: Mapping[str, str], later: Sequence[str], after: Mapping[str, str], same: bool
) -> Kill:
    """begun: keys that were, until the kill.  before, after: what the store had after the kill, and in the end.  later: keys that were
    measured after the kill."""
    return Kill(
        seconds=seconds,
        kept=len(before),
        lost=max(_of_models(lost := set(begun) - set(before)), len(lost) - _of_models(lost)),
        again=len(set(later) & set(before)),
        changed=sum(after.get(key) != value for key, value in before.items()),
        same=same,
    )


def _of_models(keys: Collection[str]) -> int:
    """How many are of whole models, and not of a kernel."""
    return sum('"kernels"' not in key for key in keys)


class Run:
    """One command in a folder of its own.  folder: with model and samples."""

    def __init__(self, folder: Path, name: str, threads: int) -> None:
        self._out, self._log = folder / name, folder / f"{name}.log"
        place = ["--calib", str(folder / "samples.npz"), "--out", str(self._out), "--threads", str(threads)]
        watched = [sys.executable, "-m", "benchmarks.ladder.watched", str(self._log), RUNGS]
        self._command = [*watched, "tune", str(folder / "model.onnx"), "--goal", GOAL, "--minutes", "10", *place]

    def finish(self) -> None:
        """Raises RuntimeError where the command fails, or takes too long."""
        done = subprocess.run(self._command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
        if done.returncode:
            raise RuntimeError(f"the search ended with {done.returncode}: {done.stderr[-500:]}")

    def kill(self, seconds: float) -> None:
        """Begins the command, and kills it after so long, if it still runs."""
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def noted(self, what: str) -> list[str]:
        """Keys, as the log has them so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.dumps(entry[what], sort_keys=True) for line in lines if what in (entry := json.loads(line))]

    def stored(self) -> dict[str, str]:
        """What the store keeps, by key."""
        path = self._out / STORE
        if not path.exists():
            return {}
        with closing(sqlite3.connect(path)) as connection:
            try:
                return dict(connection.execute("SELECT key, found FROM measurements").fetchall())
            except sqlite3.OperationalError:
                return {}  # killed before it had its table

    @property
    def recipe(self) -> str:
        return (self._out / RECIPE).read_text()


def model(path: Path) -> None:
    """Three linear layers with drawn weights."""
    drawn, nodes, weights, last = np.random.default_rng(0), [], [], "x"
    for number, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        weight = drawn.standard_normal((inputs, outputs)) / inputs**0.5
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{number}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{number}"], [f"y{number}"], name=f"layer{number}"))
        nodes.append(helper.make_node("Relu", [f"y{number}"], [last := f"z{number}"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (_BATCH, w)) for name, w in (("x", WIDTHS[0]), (last, WIDTHS[-1])))
    graph = helper.make_graph(nodes, "model", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def verdict(kills: Sequence[Kill]) -> tuple[str, bool]:
    lost, same = max((kill.lost for kill in kills), default=0), sum(kill.same for kill in kills)
    again = sum(kill.again + kill.changed for kill in kills)
    words = f"at most {lost} measurement{'' if lost == 1 else 's'} lost, {again} made again; the same recipe {same} times of {len(kills)}"
    return words, bool(kills) and all(kill.right for kill in kills)


def markdown(document: Mapping[str, Any]) -> str:
    about = (
        f"`sparsecc tune --goal '{GOAL}'` of a model of {len(WIDTHS) - 1} layers, {document['measurements']} measurements in "
        f"{document['seconds']:.0f} s, killed {len(document['kills'])} times (seed {document['seed']}). Wanted: at most one measurement "
        "lost, none made again, and the recipe of a run that nothing disturbs."
    )
    cells = [
        [f"{kill['seconds']:.1f}", kill["kept"], kill["lost"], kill["again"], kill["changed"], "yes" if kill["same"] else "no"]
        for kill in sorted(document["kills"], key=lambda kill: kill["seconds"])
    ]
    return f"{about}\n\n" + markdown_table(["killed after s", "kept", "lost", "made again", "changed", "same recipe"], cells)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=_TIMES, help="kills (with another number nothing is written)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
