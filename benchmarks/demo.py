"""What `make demo` shows: real models made cheaper in four ways, compiled, checked, and timed against onnxruntime.

1. MiniLM, a torch module: pruned, through FX to one executable; then a minute of tuning, and the same again with faster kernels.
2. MiniLM with low-rank matrices in its Mlps.
3. PP-OCRv4's recognizer, an ONNX file: to a smaller ONNX file that any onnxruntime runs, and to an executable.
4. A block of a video transformer, random weights: its attention made block-sparse, each head over its own order of the tokens.

Writes the results to demo-out/. Exit 1 when a check fails.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.export import exported
from benchmarks.machine import one_line
from benchmarks.peers import Call, OnnxRuntime, Workload, call_of, max_relative_error
from models import minilm, pp_ocr_rec, video_dit
from sparsecc.codegen.tuning.tuner import Progress as TuningProgress
from sparsecc.report.block_map import HeadMap, picture
from sparsecc.timing import interleave, speedup

OUT = Path(__file__).parents[1] / "demo-out"
TOLERANCE = 1e-3  # of compiled and converted models against the masked dense one, relative
BASELINE = "onnxruntime, dense"
TUNING_SECONDS = 60
MLPS = (r"re:encoder\..*\.(intermediate|output)\.dense",)
DRAWN_HEAD = 5  # of the video block: sharp along the width, which raster order scatters most


@dataclass
class Stage:
    """Where a demo reports: progress on a terminal, the tables, the checks."""

    console: Console
    threads: int
    seconds: float  # for each timing
    tuning_seconds: float = TUNING_SECONDS
    failures: int = 0

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A spinner while it runs; one line with its seconds when it is done."""
        start = time.perf_counter()
        with self.console.status(text):
            yield
        self.console.print(f"  [green]✓[/green] {text} [dim]{time.perf_counter() - start:.1f} s[/dim]")

    @contextmanager
    def tuning(self) -> Iterator[Callable[[TuningProgress], None]]:
        """A bar to be told of each measurement: how many there were, and what all layers take together."""
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("reading the model", total=1.0)

            def tell(now: TuningProgress) -> None:
                gain = ""
                if now.untuned_us and now.tuned_us:
                    gain = f"  all layers {now.untuned_us / 1e3:.2f} -> {now.tuned_us / 1e3:.2f} ms"
                bar.update(task, completed=min(now.share, 1.0), description=f"tuning: {now.trials} measured{gain}")

            yield tell

    def check(self, what: str, error: float) -> None:
        holds = error <= TOLERANCE
        self.failures += not holds
        mark = "[green]✓[/green]" if holds else "[red]✗[/red]"
        self.console.print(f"  {mark} {what}: relative error {error:.1e} (allowed {TOLERANCE:g})")

    def report(self, compiled: Any, file: Path) -> None:
        """Per site what was done and why; the whole of it as a page in `file`."""
        self.console.print(str(compiled.report), markup=False, highlight=False, soft_wrap=True)
        compiled.report.to_html(file)

    def race(self, calls: Mapping[str, Call]) -> None:
        """Time the calls in turns and print a table; BASELINE is among them."""
        columns = (SpinnerColumn(), TextColumn("timing, in turns"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("timing", total=1.0)
            timings = interleave(calls, seconds=self.seconds, progress=lambda share: bar.update(task, completed=share))
        table = Table("engine", "ms (median)", "p10 to p90", "speed-up", title=f"{self.threads} threads; speed-up over {BASELINE}")
        for name, timing in timings.items():
            ms, faster = timing.spread_ms, speedup(timing, over=timings[BASELINE])
            table.add_row(name, f"{ms.median:.2f}", f"{ms.p10:.2f} to {ms.p90:.2f}", f"{faster.median:.2f}x")
        self.console.print(table)

    def sizes(self, files: Mapping[str, Path | int]) -> None:
        """A table of bytes, the first one being the dense model."""
        numbers = {name: file if isinstance(file, int) else file.stat().st_size for name, file in files.items()}
        dense = next(iter(numbers.values()))
        table = Table("on disk", "MB", "of dense")
        for name, size in numbers.items():
            table.add_row(name, f"{size / 1e6:.1f}", f"{size / dense:.0%}")
        self.console.print(table)


def show_minilm(stage: Stage) -> None:
    import sparsecc

    stage.console.rule("MiniLM-L6: torch module → FX → executable")
    with stage.step("read the model"):
        module, inputs = minilm.build(), minilm.example_inputs()
    with stage.step("export it to ONNX, for onnxruntime to run"):
        work = _minilm_workload(module, inputs)
    with stage.step(f"prune, pack, compile: {_said(minilm.recipe())}"):
        compiled = sparsecc.compile(module, inputs, recipe=minilm.recipe(), threads=stage.threads)
    with stage.step("save the artifact"):
        artifact = OUT / "minilm.sparsecc"
        compiled.save(artifact)
    stage.report(compiled, OUT / "minilm.html")
    stage.check("compiled against the masked model in torch", compiled.report.to_dict()["check"]["max_rel"])
    stage.console.print(f"  mean cosine to the dense model's sentence vectors: {_cosine(module, compiled):.2f} (magnitude, no recovery)")
    dense = OnnxRuntime().load(work, stage.threads)
    stage.race({BASELINE: dense, "sparsecc": call_of(compiled, work)})
    stage.sizes({"dense ONNX": work.onnx, "sparsecc artifact": artifact})

    stage.console.rule("The same, tuned on this machine")
    records = OUT / "records.db"
    with stage.tuning() as progress:
        result = sparsecc.tune(
            module,
            inputs,
            recipe=minilm.recipe(),
            records=records,
            threads=stage.threads,
            seconds=stage.tuning_seconds,
            progress=progress,
        )
    stage.console.print(str(result), markup=False, highlight=False, soft_wrap=True)
    with stage.step("compile with the records"):
        tuned = sparsecc.compile(module, inputs, recipe=minilm.recipe(), threads=stage.threads, records=records)
    stage.check("tuned against the masked model in torch", tuned.report.to_dict()["check"]["max_rel"])
    stage.race({BASELINE: dense, "sparsecc, untuned": call_of(compiled, work), "sparsecc, tuned": call_of(tuned, work)})


def show_structures(stage: Stage) -> None:
    import sparsecc

    stage.console.rule("MiniLM-L6, its Mlps low-rank: half of their parameters, nothing trained")
    module, inputs = minilm.build(), minilm.example_inputs()
    work = _minilm_workload(module, inputs)
    recipe = {"passes": [{"substitute": {"targets": MLPS, "ignore": [r"re:.*\.attention\..*"], "structure": "low_rank", "params": 0.5}}]}
    with stage.step("project the weights, least error on 16 sentences, and compile"):
        compiled = sparsecc.compile(module, inputs, recipe=recipe, calibration=minilm.calibration(16), threads=stage.threads)
    stage.report(compiled, OUT / "minilm_low_rank.html")
    stage.check("compiled against the substituted model in torch", compiled.report.to_dict()["check"]["max_rel"])
    stage.console.print(f"  mean cosine to the dense model's sentence vectors: {_cosine(module, compiled):.2f} (no recovery)")
    stage.race({BASELINE: OnnxRuntime().load(work, stage.threads), "sparsecc, low rank": call_of(compiled, work)})


def _minilm_workload(module: Any, inputs: Any) -> Workload:
    names = ("input_ids", "attention_mask")
    arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return Workload("minilm", exported("minilm", module, inputs, names), arrays, module)


def show_recognizer(stage: Stage) -> None:
    import onnx

    import sparsecc

    stage.console.rule("PP-OCRv4 recognizer: ONNX file → ONNX file, and executable")
    source, inputs, recipe = pp_ocr_rec.build(), pp_ocr_rec.example_inputs(), pp_ocr_rec.recipe()
    shapes = {name: value.shape for name, value in inputs.items()}
    converted = OUT / "recognizer.onnx"
    with stage.step(f"prune, pack, write ONNX: {_said(recipe)}"):
        onnx.save(sparsecc.convert(source, recipe, input_shapes=shapes)[0], converted)
    with stage.step("compile the written file"):
        compiled = sparsecc.compile(converted, threads=stage.threads, input_shapes=shapes)
    with stage.step("save the artifact"):
        artifact = OUT / "recognizer.sparsecc"
        compiled.save(artifact)
    stage.report(compiled, OUT / "recognizer.html")
    stock = OnnxRuntime().load(Workload("converted", converted, inputs), stage.threads)
    ours = call_of(compiled, Workload("compiled", converted, inputs))
    stage.check("compiled against the written file in a stock onnxruntime", max_relative_error(ours(), stock()))
    dense = OnnxRuntime().load(Workload("dense", source, inputs), stage.threads)
    stage.console.print(_readings(source, compiled))
    stage.race({BASELINE: dense, "onnxruntime, the written file": stock, "sparsecc": ours})
    stage.sizes({"dense ONNX": source, "written ONNX": converted, "sparsecc artifact": artifact})


def show_video(stage: Stage) -> None:
    import onnx

    import sparsecc

    stage.console.rule("Video transformer block: tokens reordered head by head, 30 % of the attention blocks kept")
    with stage.step("read the model"):
        module, inputs, recipe = video_dit.build(), video_dit.example_inputs(), video_dit.recipe()
    with stage.step("export it to ONNX"):
        source = exported("video_dit", module, inputs, ("latents", "text"))
    with stage.step("choose orders and blocks, write ONNX"):
        proto, report = sparsecc.convert(source, recipe, calibration=[inputs])
        onnx.save(proto, OUT / "video.onnx")
    stage.console.print(report.explain(), markup=False, highlight=False, soft_wrap=True)
    with stage.step("put the same map into the torch module, through FX"):
        output, mass = _through_fx(module, inputs, proto)
    with stage.step(f"draw head {DRAWN_HEAD}, in {OUT.name}/video_head.png"):
        picture(OUT / "video_head.png", [HeadMap(*mass)], title=f"video_dit, head {DRAWN_HEAD}")
    arrays = {name: tensor.numpy() for name, tensor in zip(("latents", "text"), inputs, strict=True)}
    stock = OnnxRuntime().load(Workload("converted", OUT / "video.onnx", arrays), stage.threads)
    stage.check("written file in a stock onnxruntime against FX", max_relative_error(stock(), [output]))
    with stage.step("compile the written file, and the dense one"):
        compiled, dense = (sparsecc.compile(path, threads=stage.threads) for path in (OUT / "video.onnx", source))
    ours, ours_dense = (call_of(one, Workload("video", source, arrays)) for one in (compiled, dense))
    stage.check("compiled against the written file in a stock onnxruntime", max_relative_error(ours(), stock()))
    stage.race(
        {
            BASELINE: OnnxRuntime().load(Workload("dense", source, arrays), stage.threads),
            "sparsecc, dense": ours_dense,
            "sparsecc, 30 % of the attention": ours,
        }
    )


def _through_fx(module: Any, inputs: Any, proto: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """What the module gives in torch with the block map of the written file; of one head the mass in raster order, in its own, and
    what is kept."""
    from sparsecc.attention.base import Sample
    from sparsecc.attention.judge import average_mass
    from sparsecc.graph.fx.graph import FxGraph
    from sparsecc.graph.onnx.graph import OnnxGraph
    from sparsecc.graph.sites import Attention
    from sparsecc.ops.block_attention.torch import BlockAttention

    [written], graph = OnnxGraph.from_proto(proto).sites(Attention), FxGraph.from_module(module, inputs)
    [site], chosen = graph.sites(Attention), written.block_map
    assert chosen is not None and chosen.orders is not None
    head = Sample(*(tensor[0, DRAWN_HEAD] for tensor in graph.run(inputs, [site.name]).taps[site.name]))
    orders = (0, int(chosen.orders[DRAWN_HEAD]))
    raster, own = (average_mass([head], chosen.grid.permutation(order), site.scale, chosen.block).mass for order in orders)
    graph.replace(site, BlockAttention(chosen, site.scale))
    return graph.run(inputs).outputs[0].numpy(), (raster.numpy(), own.numpy(), chosen.keep[DRAWN_HEAD].numpy())


def _said(recipe: Mapping[str, Any]) -> str:
    prune = recipe["passes"][0]["prune"]
    return f"{prune['pattern']}, {prune['sparsity']:.0%} zeros, by {prune['criterion']}"


def _cosine(module: Any, compiled: Any, count: int = 16) -> float:
    """Mean cosine of sentence vectors, dense and compiled, on sentences that nothing was calibrated on."""
    import torch

    cosines = []
    for sentence in minilm.held_out(count):
        ids, mask = minilm.tokenize([sentence])
        with torch.inference_mode():
            dense = minilm.embed(module(ids, mask)[0], mask)
        cosines.append(float((dense * minilm.embed(compiled(ids, mask)[0], mask)).sum()))
    return float(np.mean(cosines))


def _readings(source: Path, compiled: Any, count: int = 5) -> Table:
    """What the dense and the sparse model read on a few lines."""
    table = Table("written", "dense reads", "sparse reads")
    for text, sample in zip(pp_ocr_rec.texts(count), pp_ocr_rec.calibration(count), strict=True):
        dense = OnnxRuntime().load(Workload("dense", source, sample), 1)()[0]
        table.add_row(text, pp_ocr_rec.decode(np.asarray(dense))[0], pp_ocr_rec.decode(np.asarray(compiled(sample["x"])))[0])
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5, help="for each of the five timings")
    parser.add_argument("--tuning-seconds", type=float, default=TUNING_SECONDS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    stage = Stage(Console(), arguments.threads, arguments.seconds, arguments.tuning_seconds)
    stage.console.print(one_line(), style="dim")
    for show in (show_minilm, show_structures, show_recognizer, show_video):
        begin = time.perf_counter()
        show(stage)
        stage.console.print(f"  {time.perf_counter() - begin:.0f} s", style="dim")
    stage.console.rule(f"{time.perf_counter() - start:.0f} s; files and reports are in {OUT.name}/")
    return 1 if stage.failures else 0


if __name__ == "__main__":
    sys.exit(main())
