"""Searches for goals on a GPU: four layers of Llama 3.2 1B's shape with random weights, in bfloat16, for 1 and 16 tokens.

    python -m benchmarks.gpu.goal [--shape 1b_4_layers] [--tokens 1 16] [--minutes 2] [--out DIR]
    python -m benchmarks.gpu.goal --build      # builds the kernels on a machine without a GPU, into ~/.cache

Prints every model that was tried, with what was predicted and what was measured. Weights are random, so that qualities say how rungs
compare, and nothing of a trained model's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from models.decoders import llama as llama_decode
from sparsecc.api.gpu_trials import GpuTrials
from sparsecc.autotune import account
from sparsecc.autotune.condition import BYTES_KEPT
from sparsecc.autotune.gpu_rungs import FORMS
from sparsecc.autotune.maker import Point
from sparsecc.autotune.rungs import Rung, everywhere
from sparsecc.autotune.tune import Found, search
from sparsecc.codegen.cuda.target import Target

_GOALS = ("pareto", "latency<={:.4f}ms")  # of this share of the dense model's time
_SHARE = 0.6
_SAMPLES, _TOKENS = 64, 256  # at least, and tokens in all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1b_4_layers", choices=list(llama_decode.SHAPES))
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rungs", type=lambda names: names.split(","), help="to try, joined by commas; left out: all that there are")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for pages and data")
    arguments = parser.parse_args()
    for tokens in arguments.tokens:
        if arguments.build:
            _build(arguments.shape, tokens)
        else:
            _search(arguments.shape, tokens, arguments.minutes, arguments.rungs, arguments.out)


def _search(shape: str, tokens: int, minutes: float, rungs: list[str] | None, out: Path | None) -> None:
    """One search after the other in one folder: the later ones measure little again."""
    model, calibration = llama_decode.build(shape, "cuda"), _samples(shape, tokens)
    program = torch.export.export(model, tuple(tensor.cuda() for tensor in calibration[0]))
    with tempfile.TemporaryDirectory() as scratch:
        dense_ms = 1.0
        for goal in _GOALS:
            start, wanted = time.perf_counter(), goal.format(_SHARE * dense_ms)
            given: dict[str, Any] = {"calibration": calibration, "folder": scratch, "minutes": minutes, "rungs": rungs}
            given["criterion"] = "wanda"  # quick; of random weights none knows better
            found = search(program, goal=wanted, target="cuda", **given)
            dense_ms = found.points[0].ms
            made = account.report(found)
            print(f"== {tokens} tokens, {time.perf_counter() - start:.0f} s", made.verdict, *made.notes, *_tried(found), sep="\n")
            if out is not None:
                name = f"{tokens}-tokens-{goal.split('<')[0].split('>')[0]}"
                (out / f"{name}.json").write_text(json.dumps(made.to_dict()))
                (out / f"{name}.html").write_text(made.to_html())


def _tried(found: Found) -> Iterator[str]:
    """What was predicted beside what was measured, and how many layers are on each rung."""
    dense = found.points[0]
    yield f"{'predicted ms':>14} {'measured ms':>12} {'off':>6} {'times dense':>12} {'MB':>7} {'cosine':>8}  layers"
    for point in found.points:
        off, times, cosine = point.predicted_ms / point.ms - 1, dense.ms / point.ms, point.measured["cosine"]
        numbers = (
            f"{point.predicted_ms:14.4f} {point.ms:12.4f} {off:6.1%} {times:12.2f} {point.measured[BYTES_KEPT] / 1e6:7.1f} {cosine:8.5f}"
        )
        yield f"{numbers}  {_layers(point)}{' *' if point in found.front or point is found.best else ''}"


def _layers(point: Point) -> str:
    rungs: dict[str, list[str]] = {}
    for step in point.recipe["passes"]:
        for fields in step.values():
            for name in fields["targets"]:
                rungs.setdefault(name, []).append(" ".join(str(fields[key]) for key in ("pattern", "sparsity", "dtype") if key in fields))
    counts = Counter(" ".join(filter(None, words)) for words in rungs.values())
    return ", ".join(f"{count} {rung}" for rung, count in counts.items()) or "as they came"


def _samples(shape: str, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random ids, where tokens follow each other from the start."""
    generator, sizes = torch.Generator().manual_seed(0), llama_decode.SHAPES[shape]
    count = max(_SAMPLES, _TOKENS // tokens)
    return [(torch.randint(sizes.vocabulary, (1, tokens), generator=generator), torch.arange(tokens)) for _ in range(count)]


def _build(shape: str, tokens: int) -> None:
    model, calibration = llama_decode.build(shape), _samples(shape, tokens)
    trials = _Building.open(torch.export.export(model, calibration[0]), calibration[0], target="cuda:sm_90a")
    for name in FORMS:
        start = time.perf_counter()
        trials.compile(everywhere(Rung.parse(name), prune={"criterion": "random"}))
        print(f"{tokens} tokens, {name}: built in {time.perf_counter() - start:.0f} s", flush=True)


class _Building(GpuTrials):
    """For an architecture, without a GPU."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, clock=_NoClock())

    @classmethod
    def _target_of(cls, target: str, threads: int | None) -> Target:
        return Target(("sm_90a",))


class _NoClock:
    def turns(self, calls: Sequence[Callable[[], object]], seconds: float, rounds: int) -> list[list[float]]:
        raise NotImplementedError

    def linear_us(self, rows: int, depth: int, tokens: int, dtype: torch.dtype) -> float:
        return 0.0


if __name__ == "__main__":
    main()
