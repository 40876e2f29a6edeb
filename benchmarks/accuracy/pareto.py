"""Quality against measured time: what a search for the front finds of a model, recipes with one pattern, onnxruntime and OpenVINO, dense
and in int8.

    python -m benchmarks.accuracy.pareto --model minilm [--threads 2] [--minutes 30] [--seconds 60] [--steps 200] [--quick] [--row TEXT ...]

Each peer has a process of its own, and so have all models of sparsecc together; they take turns. Each model is judged by what the very call
that was timed gives for inputs held out; the search has the same samples. Writes benchmarks/results/accuracy-pareto-MODEL.json, .md and
.png. What a search has measured is kept in build/benchmarks, where the next run finds it. Pictures need matplotlib.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import sparsecc
from benchmarks import export
from benchmarks.accuracy.frontier import Axis, Point, draw, frontier
from benchmarks.accuracy.subjects import SUBJECTS, Case, Subject
from benchmarks.machine import machine
from benchmarks.peers import Engine, OnnxRuntime, OnnxRuntimeInt8, OpenVino, OpenVinoInt8
from benchmarks.processes import Artifact, Process, each_started, in_turns
from benchmarks.results import FOLDER, markdown_table, write
from sparsecc.calibration.context import Progress
from sparsecc.timing import Spread, Timing, speedup

BASELINE = OnnxRuntime().name
FOUND = "sparsecc found"  # how rows of the search begin
_LEAST = 1e-4  # of a quality of which less is better: half of a wrong character in a few thousand
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
    arguments = parser(__doc__).parse_args()
    console = Console()
    for name in arguments.model or SUBJECTS:
        subject = SUBJECTS[name]
        document = measured(subject, arguments, console)
        table = markdown(subject, document)
        console.print(table, markup=False, highlight=False, soft_wrap=True)
        if arguments.quick or arguments.row:
            continue
        for path in published(name, document, table):
            console.print(f"wrote {path}")
    return 0


def published(name: str, document: dict[str, Any], table: str) -> list[Path]:
    """Writes data, table and picture of a model. name: of SUBJECTS."""
    subject = SUBJECTS[name]
    picture = FOLDER / f"accuracy-pareto-{name}.png"
    draw(picture, f"{subject.title}, {document['threads']} threads", points(document), subject.axis)
    return [*write(f"accuracy-pareto-{name}", document, table), picture]


def measured(subject: Subject, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    sizes = subject.quick if arguments.quick else subject.full
    case, threads = subject.load(sizes), arguments.threads
    with tempfile.TemporaryDirectory() as name:
        models = list(_made(subject, case, arguments, Path(name), console))
        groups: list[list[Engine]] = [[peer] for peer in peers(subject.transformer)]
        ours: list[Engine] = [model.engine for model in models]
        work = replace(case.work, module=None)  # which no engine of these runs
        with console.status("loading"), each_started([*groups, ours], work, threads) as processes:
            console.print(f"judging {len(groups) + len(ours)} models, timing them for {arguments.seconds:g} s", highlight=False)
            qualities = judged(case, processes)
            timings = in_turns(processes, arguments.seconds)
    about = {model.engine.name: {"seconds": model.seconds, "recipe": model.recipe} for model in models}
    rows = [_row(timings[name], timings[BASELINE], qualities[name]) | about.get(name, {"seconds": None}) for name in timings]
    return {
        "machine": machine(),
        "threads": threads,
        **vars(sizes),
        "steps": arguments.steps if case.work.module is not None else 0,
        "minutes": arguments.minutes,
        "seed": arguments.seed,
        "rows": rows,
    }


@dataclass(frozen=True)
class Made:
    """A model of ours. seconds: of rewriting and compiling."""

    engine: Artifact
    recipe: Mapping[str, Any]
    seconds: float


def _made(subject: Subject, case: Case, arguments: argparse.Namespace, folder: Path, console: Console) -> Iterator[Made]:
    """The recipes with one pattern, and the front that a search finds, the fastest first; each saved in the folder."""

    def made(name: str, recipe: Mapping[str, Any], samples: Sequence[Any], number: int) -> Made:
        start = time.perf_counter()
        with console.status(f"compiling {name}"):
            path = folder / f"{number}.sparsecc"
            sparsecc.compile(*_opened(case), recipe=recipe, calibration=samples, threads=arguments.threads, **_shapes(case)).save(path)
        seconds = time.perf_counter() - start
        console.print(f"{name}: made in {seconds:.0f} s", highlight=False)
        return Made(Artifact(name, path), recipe, seconds)

    wanted = [variant for variant in VARIANTS if variant.name not in subject.left_out and _asked(variant, arguments.row)]
    recipes = [(f"sparsecc {variant.name}", variant.recipe(case, arguments.steps), case.calibration) for variant in wanted]
    if arguments.minutes:
        found = searched(case, subject.axis, arguments, console)
        recipes += [(f"{FOUND} {i}", point.recipe, found.samples) for i, point in enumerate(found.front, 1)]
    for number, (name, recipe, samples) in enumerate(recipes):
        yield made(name, recipe, samples, number)


def _asked(variant: Variant, texts: Sequence[str] | None) -> bool:
    return not texts or any(text in variant.name for text in texts)


def searched(case: Case, axis: Axis, arguments: argparse.Namespace, console: Console) -> Any:
    """The `Found` of a search for the front, by the quality that is shown: of a model in parts of the dense one's."""
    dense: list[list[np.ndarray]] = []

    def quality(model: Any) -> float:
        """Higher is better. The dense model comes first."""
        outputs = [np.asarray(model.flat(list(sample.values()))[0]) for sample in case.held_out]
        dense.extend([outputs] * (not dense))
        found = case.quality(outputs, dense[0])
        return 1 / max(found, _LEAST) if axis.lower_is_better else found

    with console.status("searching") as status:

        def tell(now: Progress) -> None:
            status.update(f"searching: {now.what} {now.done}/{now.total} {now.note}")

        return sparsecc.tune(
            *_opened(case),
            goal="pareto",
            metric=quality,
            calibration=case.calibration,
            held_out=[tuple(sample.values()) for sample in case.held_out],
            minutes=arguments.minutes,
            folder=export.CACHE / f"search-{case.work.name}",
            threads=arguments.threads,
            seed=arguments.seed,
            progress=tell,
            **_shapes(case),
        )


def _opened(case: Case) -> tuple[Any, Any]:
    """The model and its example inputs, as `compile` takes them."""
    if case.work.module is None:
        return case.work.onnx, None
    import torch

    return case.work.module, tuple(torch.from_numpy(value) for value in case.work.inputs.values())


def _shapes(case: Case) -> dict[str, Any]:
    return {"input_shapes": {name: value.shape for name, value in case.work.inputs.items()}} if case.work.module is None else {}


def judged(case: Case, processes: Sequence[Process]) -> dict[str, float]:
    """The quality of what each engine gives; where it is that of agreeing, with what the baseline gives."""
    found = {name: answers(process, name, case.held_out) for process in processes for name in process.names}
    return {name: case.quality(outputs, found[BASELINE]) for name, outputs in found.items()}


def answers(process: Process, name: str, samples: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """The first output for each sample."""
    return [outputs[0] for outputs in process.answers(name, samples)]


def _row(timing: Timing, baseline: Timing, quality: float) -> dict[str, Any]:
    """time: over the baseline's, round by round.  samples_s: seconds of each round."""
    relative = speedup(baseline, over=timing)
    return {**timing.to_dict(), "time": relative.to_dict(), "quality": quality, "samples_s": list(timing.seconds)}


def layers(recipe: Mapping[str, Any] | None) -> str:
    """How many layers each pass of a recipe names, in one line: "prune 1x4 60 % on 6, quantize int8 on 36"."""
    parts = []
    for step in (recipe or {}).get("passes", ()):
        [(name, given)] = step.items()
        what = given.get("pattern") or given.get("structure") or given.get("dtype")
        share = given.get("sparsity", given.get("params"))
        where = f"on {len(given['targets'])}" if "targets" in given else ""
        if what is not None:
            parts.append(" ".join(filter(None, [name, what, f"{share:.0%}" if share is not None and ":" not in what else "", where])))
    return ", ".join(parts)


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
        f"calibrated on {document['samples']} others. {_searching(document)}Pruned by ALPS; "
        + (
            f"each block then takes {document['steps']} steps to give what it gave"
            if document["steps"]
            else "then least squares for each layer"
        )
        + f". Time over that of {BASELINE} in float32, in turns, each engine in a process of its own."
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
            layers(row.get("recipe")) if row["name"].startswith(FOUND) else "",
        ]
        for row, point in zip(document["rows"], every, strict=True)
    ]
    return f"{about}\n\n" + markdown_table(
        ["engine", subject.axis.name, "ms", "time", "p10-p90", "on the frontier", "seconds to make", "layers"], cells
    )


def _searching(document: Mapping[str, Any]) -> str:
    if not document["minutes"]:
        return ""
    found = f"Rows called found are the front of a search of {document['minutes']:g} minutes (seed {document['seed']}). "
    return f"{found}The others of sparsecc have one pattern for all layers. "


def parser(about: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SUBJECTS), action="append", help="only this one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30, help="for the search; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--seconds", type=float, default=60, help="for the timing of a model; making the variants comes on top")
    parser.add_argument("--steps", type=int, default=200, help="of each block of a torch model")
    parser.add_argument("--quick", action="store_true", help="few inputs: whether it runs (nothing is written)")
    parser.add_argument("--row", action="append", metavar="TEXT", help="only variants whose names contain this (nothing is written)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
