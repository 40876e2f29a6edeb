"""Every part turns its document into a table and promises; the small ones are measured on small layers."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import callers, convolutions, cpu, decode, efficiency, run_memory
from benchmarks.promises import Promise
from sparsecc.timing import Spread

SPREAD = {"median": 2.0, "p10": 1.0, "p90": 3.0}
TIMED = {"name": "sparsecc dense", "ms": SPREAD, "speedup": SPREAD, "at_least": 1.5, "reached": True, "check": {"max_rel": 1e-6}}
BERT = {"tokens": 128, "batch": 1, "threads": 2, "rows": [TIMED | {"baseline": "peer", "allowed": 1e-3, "compile_seconds": 30.0}]}
MEMORY = [
    {"name": name, "sparsity": sparsity, "file_bytes": 1, "idle_bytes": 1, "peak_bytes": peak}
    for name, sparsity, peak in (("onnxruntime", None, 100), ("dense", 0.0, 200), ("half", 0.5, 99), ("most", 0.9, 101))
]


def layer(tokens: int, gflops: float) -> dict[str, Any]:
    return {"tokens": tokens, "inputs": 256, "kernel": "dense_matmul", "ms": SPREAD, "gflops": gflops, "bound_gflops": 200, "of_bound": 0.5}


def test_documents_become_tables_and_promises() -> None:
    found = {
        "bert128": BERT | {"wall_seconds": 1.0},
        "efficiency": {"threads": 2, "rows": [layer(1, 50), layer(64, 100)], "wall_seconds": 1.0},
    }
    promises = [promise for name, part in found.items() for promise in cpu.PARTS[name].promises(part)]
    assert [promise.reached for promise in promises] == [True, True, False]
    assert promises[1].measured.median == 0.5  # 30 of 60 s of compiling
    text = cpu.markdown(found, promises, threads=2)
    assert "Reached: 2 of 3" in text
    assert "| 64 | 100 (50%)* |" in text
    json.dumps(cpu.document(found, promises, threads=2))


def test_memory_is_promised_from_half_the_zeros() -> None:
    document = {"threads": 2, "rows": MEMORY}
    assert [(promise.what, promise.reached) for promise in run_memory.promises(document)] == [("half", True), ("most", False)]
    assert run_memory.markdown(document).splitlines()[-1] == "| most | 0 | 0 | 0 | 1.01 |"


def test_other_benchmarks_promise_what_they_time() -> None:
    row = {"times_rival": SPREAD, "rows": 8, "cols": 4, "tokens": 1}
    (promise,) = decode.promises({"rows": [TIMED | row, TIMED | row | {"at_least": None}]})
    assert promise.part == "linear 4 → 8, 1 token"
    (promise,) = convolutions.promises({"models": [{"model": "opennsfw", "rows": [TIMED]}]})
    assert promise.wanted == 1.5


def test_callers_get_their_own_answers() -> None:
    rows = callers.race([lambda number=number: [np.array(number)] for number in range(4)], seconds=0.01)
    assert rows[1]["wrong_answers"] == 0
    turns = count()
    rows = callers.race([lambda: [np.array(next(turns))]] * 2, seconds=0.01)
    assert rows[1]["wrong_answers"] and not rows[1]["reached"]


def test_a_layer_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "OUTPUTS", 64)
    document = efficiency.measured(2, 0.01, Console(quiet=True), tokens=(1, 64), inputs=(64,))
    assert [(row["tokens"], row["gflops"] > 0) for row in document["rows"]] == [(1, True), (64, True)]
    (promise,) = efficiency.promises(document)
    assert isinstance(promise, Promise) and isinstance(promise.measured, Spread)
