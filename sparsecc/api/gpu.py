"""`compile` for a GPU: the graph stays torch's, packed layers call our kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.api import account, compare
from sparsecc.api.rewriting import Rewritten
from sparsecc.errors import ModelError, UserError
from sparsecc.report.base import KernelReport, Report

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from sparsecc.codegen.cuda.alone import AloneSpec
    from sparsecc.codegen.cuda.built import Builder
    from sparsecc.codegen.cuda.choose import Choice, Row
    from sparsecc.codegen.cuda.lower import Chooses, Lowered
    from sparsecc.codegen.cuda.target import Target
    from sparsecc.codegen.tuning.result import TuningResult
    from sparsecc.codegen.tuning.tuner import Budget, Progress
    from sparsecc.graph.base import Graph, TensorSpec
    from sparsecc.graph.fx.graph import FxGraph
    from sparsecc.runtime.module import CompiledModule

CACHE = Path("~/.cache/sparsecc/cuda")  # of built kernels, by all that they depend on


_EXACT = 1e-3
_TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2}  # sums are rounded at other places; relative to the largest output


def compiled(result: Rewritten, report: Report, target: Target, known: Any, cache: PathLike[str] | str | None) -> CompiledModule:
    """Raises ModelError for a graph that is not torch's."""
    from sparsecc.codegen.cuda.choose import Chooser
    from sparsecc.runtime.module import CompiledModule

    graph, here = torch_graph(result.graph), target.is_here
    lowered = lowered_on(device_for(graph, here), graph, Chooser(target, builder(cache), measure=here, known=known))
    report = chosen(replace(report, notes=(*report.notes, *lowered.notes)), lowered.choices, lowered.others)
    made = CompiledModule(lowered.module, graph.inputs, graph.outputs, target, report)
    if here:
        made.load_kernels()
    return made


def lowered_on(device: str, graph: FxGraph, chooser: Chooses) -> Lowered:
    """The graph there, with kernels in the place of its packed layers; it has buffers of its own, and checks what it is called with."""
    import torch

    from sparsecc.codegen.cuda.lower import lower
    from sparsecc.graph.fx import state
    from sparsecc.graph.fx.tensors import assign

    graph = graph.to(device)
    module = graph.module
    for name, tensor in state.written(module).items():
        assign(module, name, tensor.detach().clone(), trainable=False)
    with torch.no_grad(), torch.cuda.device(graph.device) if graph.device.type == "cuda" else nullcontext():
        lowered = lower(module, chooser)
    graph.check_when_called(module)
    return lowered


def builder(cache: PathLike[str] | str | None) -> Builder:
    """Of kernels, kept in this folder."""
    from sparsecc.codegen.cuda.built import Builder

    return Builder(Path(cache or CACHE).expanduser())


def device_for(graph: FxGraph, here: bool) -> str:
    """Where the model is on a GPU that the code is for; else the current one, and the CPU where there is none for it."""
    if not here:
        return "cpu"
    return str(graph.device) if graph.device.type == "cuda" else "cuda"


def tuned(
    rewrite: Callable[[], Rewritten],
    target: Target,
    records: PathLike[str] | str,
    cache: PathLike[str] | str | None,
    budget: Budget,
    seed: int,
    progress: Callable[[Progress], None] | None,
) -> TuningResult:
    """Raises UserError for architectures that are not the GPU here, and where nothing is to be tuned."""
    import torch

    from sparsecc.codegen.cuda.lower import lower
    from sparsecc.codegen.cuda.tuning import Collector, Tuner
    from sparsecc.codegen.tuning.records import Records

    if not target.device:
        raise UserError("only the GPU here can be tuned: name it as target cuda")
    found = Collector()
    with Records(records, target, "write") as opened:
        with torch.no_grad():
            lower(torch_graph(rewrite().graph).to("cuda").module, found)
        if not found.packed:
            raise UserError("the model has no packed layer that there are kernels for, so that there is nothing to tune")
        return Tuner(found, opened, target, builder(cache), budget, seed).run(progress)


def torch_graph(graph: Graph) -> FxGraph:
    """Raises ModelError for a graph of another host."""
    from sparsecc.graph.fx.graph import FxGraph

    if not isinstance(graph, FxGraph):
        raise ModelError(f"{graph.where}: target cuda takes torch models; this one is of host {graph.host!r}")
    return graph


def checked(module: CompiledModule, inputs: Sequence[Any], expected: Sequence[Any]) -> Report:
    """The report with the compiled module's outputs compared to the masked one's."""
    outputs = outputs_of(module, inputs)
    ours, theirs = ([tensor.float().cpu() for tensor in tensors] for tensors in (outputs, expected))
    return compare.checked(module.report, ours, theirs)


def tolerance(report: Report) -> float:
    """How far outputs may be from the masked model's, relative to the largest."""
    found = [_TOLERANCE.get("bfloat16" if site.quantized else site.dtype, _EXACT) for site in report.sites]
    return max([_EXACT, *found])


def outputs_of(module: CompiledModule, inputs: Sequence[Any]) -> list[Any]:
    """Flat; what the call writes into its buffers is taken back."""
    return called(module, module.program, module.inputs, inputs)


def called(module: Any, program: GraphModule, specs: Sequence[TensorSpec], inputs: Sequence[Any]) -> list[Any]:
    """`outputs_of` a module that calls a program. specs: of its inputs."""
    import torch
    from torch.utils import _pytree as pytree

    from sparsecc.graph.fx import state

    args, kwargs = arguments_of(program, specs, inputs)
    with torch.no_grad(), state.restored(program):
        returned = module(*args, **kwargs)
    return [leaf.detach() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, torch.Tensor)]


def arguments_of(program: GraphModule, specs: Sequence[TensorSpec], inputs: Sequence[Any]) -> tuple[Any, Any]:
    """Positional and keyword arguments of a program, of tensors in the order of its inputs, which come to where its weights are."""
    from sparsecc.graph.fx.arguments import Arguments
    from sparsecc.graph.fx.device import device_of

    device = device_of(program)
    return Arguments(program, None, specs, device).structured([tensor.to(device) for tensor in inputs])


def chosen(
    report: Report, choices: Sequence[tuple[tuple[str, ...], Choice]], others: Sequence[tuple[str, AloneSpec, Choice]] = ()
) -> Report:
    """The report with what runs each packed layer and what has no packed weight, and the table of what was timed."""
    by_site = {name: (names, choice) for names, choice in choices for name in names}
    decided = {name: _decided(*found) for name, found in by_site.items()}
    decided |= {name: _runs(spec, choice) for name, spec, choice in others}
    sites = tuple(replace(row, **decided[row.name]) if row.name in decided else row for row in report.sites)
    every = [*(choice for _, choice in choices), *(choice for _, _, choice in others)]
    rows = {id(row): row for choice in every for row in choice.rows}  # layers alike share them
    counts = Counter((spec.name, _runner(spec, choice), choice.reason) for _, spec, choice in others)
    notes = (f"{count} of {name}: {runs} ({reason})" for (name, runs, reason), count in counts.items())
    kernels = tuple(map(_kernel, rows.values()))
    return replace(report, sites=sites, kernels=kernels, totals=account.totals(sites), notes=(*report.notes, *notes))


def _decided(names: tuple[str, ...], choice: Choice) -> dict[str, Any]:
    """Times are of the whole call, so that they stand in the reason of each of its layers and not in its row."""
    from sparsecc.codegen.cuda.forms import ANY_ZEROS, TWO_OF_FOUR

    together = f", together with {', '.join(names[1:])}" if len(names) > 1 else ""
    reason = f"{choice.reason}{together}"
    if choice.plan is None:
        return {"decision": "dense", "reason": reason}
    skips = choice.plan.spec.form.startswith((TWO_OF_FOUR, ANY_ZEROS))
    return {"decision": "sparse" if skips else "dense", "kernel": choice.plan.steps[0].kernel, "reason": reason}


def _runs(spec: AloneSpec, choice: Choice) -> dict[str, Any]:
    """Of an attention site."""
    return {"dtype": spec.dtype, "kernel": _runner(spec, choice), "reason": choice.reason}


def _runner(spec: AloneSpec, choice: Choice) -> str:
    from sparsecc.codegen.cuda.choose import FLEX, TORCH
    from sparsecc.codegen.cuda.kernel import BlockAttentionSpec

    if choice.plan is not None:
        return choice.plan.steps[0].kernel
    return FLEX if isinstance(spec, BlockAttentionSpec) else TORCH


def _kernel(row: Row) -> KernelReport:
    return KernelReport(form=row.form, shape=(row.rows, row.depth), tokens=row.tokens, us=dict(row.us), chosen=row.chosen)
