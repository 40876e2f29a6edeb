"""Quality against measured time: sparsecc's variants of a model beside onnxruntime and OpenVINO, dense and in int8.

    python -m benchmarks.accuracy.pareto --model minilm [--threads 2] [--seconds 60] [--steps 200] [--quick] [--row TEXT ...]

All engines are timed in turns. Each is judged by what the very call that was timed gives for inputs held out. Writes
benchmarks/results/accuracy-pareto-MODEL.json, .md and .png. Pictures need matplotlib.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

import sparsecc
from benchmarks.accuracy.frontier import Point, draw, frontier
from benchmarks.accuracy.subjects import SUBJECTS, Case, Subject
from benchmarks.machine import machine
from benchmarks.peers import Call, Engine, OnnxRuntime, OnnxRuntimeInt8, OpenVino, OpenVinoInt8, Workload, call_of
from benchmarks.results import FOLDER, markdown_table, write
from sparsecc.timing import Spread, Timing, interleave, speedup

BASELINE = OnnxRuntime().name
_MADE = 2  # inputs that a criterion is shown beside each one given


@dataclass(frozen=True)
class Variant:
    """What sparsecc makes of a model: pruned by ALPS; then a torch model learns block by block what it gave, an ONNX model is rebuilt by
    least squares, layer by layer. pattern: None for dense."""

    pattern: str | None = None
    sparsity: float = 0.5
    int8: bool = False

    @property
    def name(self) -> str:
        share = "" if self.pattern is None or ":" in self.pattern else f" {self.sparsity:.0%}"
        return f"{'int8 ' if self.int8 else ''}{self.pattern or 'dense'}{share}"

    def recipe(self, case: Case, steps: int) -> dict[str, Any]:
        """steps: of each block."""
        passes: list[dict[str, Any]] = []
        scope = case.scope
        if self.pattern is not None:
            share = {} if ":" in self.pattern else {"sparsity": self.sparsity}
            if self.pattern.endswith("x1") or ":" in self.pattern:
                passes.append({"permute": {**scope, "pattern": self.pattern}})
            passes.append({"prune": {**scope, "pattern": self.pattern, "criterion": "alps", "variations": _MADE, **share}})
            learning = {"method": "blocks", "steps": steps, "learning_rate": 1e-3, "dtype": "bfloat16"}
            passes.append({"recover": {**scope, **(learning if case.work.module is not None else {})}})
        if self.int8:
            passes.append({"quantize": dict(scope)})
        return {"passes": [*passes, {"pack": {}}] if self.pattern else passes}

    def load(self, case: Case, threads: int, steps: int) -> Call:
        work, recipe = case.work, self.recipe(case, steps)
        if work.module is None:
            shapes = {name: value.shape for name, value in work.inputs.items()}
            compiled = sparsecc.compile(work.onnx, recipe=recipe, calibration=case.calibration, threads=threads, input_shapes=shapes)
        else:
            import torch

            inputs = tuple(torch.from_numpy(value) for value in work.inputs.values())
            compiled = sparsecc.compile(work.module, inputs, recipe=recipe, calibration=case.calibration, threads=threads)
        return call_of(compiled, work)


VARIANTS = (
    Variant(),
    Variant(int8=True),
    *(Variant("unstructured", sparsity) for sparsity in (0.5, 0.7, 0.8, 0.9)),
    *(Variant("4x1", sparsity) for sparsity in (0.5, 0.7)),
    Variant("2:4"),
    *(Variant("1x4", sparsity, int8=True) for sparsity in (0.5, 0.7)),
)


def peers(transformer: bool) -> tuple[Engine, ...]:
    quantized = OpenVinoInt8(transformer), OpenVinoInt8(transformer, "bf16")
    return OnnxRuntime(), OpenVino(), OnnxRuntimeInt8(), OnnxRuntimeInt8(static=True), *quantized


def main() -> int:
    arguments = _parser().parse_args()
    console = Console()
    for name in arguments.model or SUBJECTS:
        subject = SUBJECTS[name]
        document = measured(subject, arguments, console)
        table = markdown(subject, document)
        console.print(table, markup=False, highlight=False, soft_wrap=True)
        if arguments.quick or arguments.row:
            continue
        title = f"{subject.title}, {document['threads']} threads"
        draw(FOLDER / f"accuracy-pareto-{name}.png", title, points(document), subject.axis)
        for path in [*write(f"accuracy-pareto-{name}", document, table), FOLDER / f"accuracy-pareto-{name}.png"]:
            console.print(f"wrote {path}")
    return 0


def measured(subject: Subject, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    sizes = subject.quick if arguments.quick else subject.full
    case, threads = subject.load(sizes), arguments.threads
    calls: dict[str, Call] = {}
    seconds: dict[str, float] = {}
    for peer in peers(subject.transformer):
        with console.status(f"loading {peer.name}"):
            calls[peer.name] = peer.load(case.work, threads)
    for variant in VARIANTS:
        if variant.name in subject.left_out or (arguments.row and not any(text in variant.name for text in arguments.row)):
            continue
        start = time.perf_counter()
        with console.status(f"compiling {variant.name}"):
            calls[f"sparsecc {variant.name}"] = variant.load(case, threads, arguments.steps)
        seconds[f"sparsecc {variant.name}"] = time.perf_counter() - start
        console.print(f"{variant.name}: made in {time.perf_counter() - start:.0f} s", highlight=False)
    qualities = judged(case, calls)
    with Progress(console=console) as bar:
        task = bar.add_task("timing", total=1.0)
        timings = interleave(calls, seconds=arguments.seconds, progress=lambda done: bar.update(task, completed=done))
    rows = [_row(timings[name], timings[BASELINE], qualities[name], seconds.get(name)) for name in calls]
    return {
        "machine": machine(),
        "threads": threads,
        **vars(sizes),
        "steps": arguments.steps if case.work.module is not None else 0,
        "rows": rows,
    }


def judged(case: Case, calls: Mapping[str, Call]) -> dict[str, float]:
    """The quality of what each call gives; where it is that of agreeing, with what the baseline gives."""
    found = {name: answers(call, case.work, case.held_out) for name, call in calls.items()}
    return {name: case.quality(outputs, found[BASELINE]) for name, outputs in found.items()}


def answers(call: Call, work: Workload, samples: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """The first output for each sample. Calls read the arrays of `work.inputs`: samples are written into these, and taken out again."""
    kept = {name: value.copy() for name, value in work.inputs.items()}
    try:
        found = []
        for sample in samples:
            _write(work.inputs, sample)
            found.append(np.array(call()[0]))  # a copy: OpenVINO gives the same memory each time
        return found
    finally:
        _write(work.inputs, kept)


def _write(inputs: Mapping[str, np.ndarray], sample: Mapping[str, np.ndarray]) -> None:
    for name, value in inputs.items():
        value[...] = sample[name]


def _row(timing: Timing, baseline: Timing, quality: float, seconds: float | None) -> dict[str, Any]:
    """time: over the baseline's, round by round.  seconds: of rewriting and compiling, None for peers."""
    relative = speedup(baseline, over=timing)
    return {**timing.to_dict(), "time": relative.to_dict(), "quality": quality, "seconds": seconds}


def points(document: Mapping[str, Any]) -> list[Point]:
    found = []
    for row in document["rows"]:
        engine, _, rest = row["name"].partition(" ")
        dtype = "int8" if "int8" in rest else "float32"
        label = rest if engine == "sparsecc" else row["name"].removesuffix(" f32")
        found.append(Point(label, engine, dtype, row["time"]["median"], row["quality"]))
    return found


def markdown(subject: Subject, document: Mapping[str, Any]) -> str:
    about = (
        f"{subject.title}, {document['threads']} threads: {subject.axis.name} of what is timed, over {document['held_out']} inputs; "
        f"calibrated on {document['samples']} others. Pruned by ALPS; "
        + (
            f"each block then takes {document['steps']} steps to give what it gave"
            if document["steps"]
            else "then least squares for each layer"
        )
        + f". Time over that of {BASELINE} in float32, in turns."
    )
    every = points(document)
    best = {(point.time, point.quality) for point in frontier(every, subject.axis)}
    cells = [
        [
            row["name"],
            format(point.quality, subject.axis.style),
            f"{Spread(**row['ms']).median:.2f}",
            f"{point.time:.2f}",
            f"{row['time']['p10']:.2f}-{row['time']['p90']:.2f}",
            "yes" if (point.time, point.quality) in best else "",
            "" if row["seconds"] is None else f"{row['seconds']:.0f}",
        ]
        for row, point in zip(document["rows"], every, strict=True)
    ]
    return f"{about}\n\n" + markdown_table(
        ["engine", subject.axis.name, "ms", "time", "p10-p90", "on the frontier", "seconds to make"], cells
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SUBJECTS), action="append", help="only this one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="for the timing of a model; making the variants comes on top")
    parser.add_argument("--steps", type=int, default=200, help="of each block of a torch model")
    parser.add_argument("--quick", action="store_true", help="few inputs: whether it runs (nothing is written)")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only variants whose names contain this (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
