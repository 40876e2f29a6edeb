"""The ways in from Python, and the only place (with the command line) where stages meet."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from sparsecc import precisions, registry
from sparsecc.api import account, checks, compare, sources
from sparsecc.api.rewriting import Rewritten, rewrite
from sparsecc.api.watching import Dump, Verify
from sparsecc.calibration.samples import samples_of
from sparsecc.errors import UserError
from sparsecc.files import scratch_folder
from sparsecc.graph.abilities import HasProto

if TYPE_CHECKING:
    import onnx

    from sparsecc.calibration.context import Progress as Passing
    from sparsecc.codegen.cuda.target import Target as CudaTarget
    from sparsecc.codegen.target import Target
    from sparsecc.codegen.task import Known, Task
    from sparsecc.codegen.tuning.fleet import Fleet
    from sparsecc.codegen.tuning.result import TuningResult
    from sparsecc.codegen.tuning.tuner import Progress
    from sparsecc.passes.pipeline import Hook
    from sparsecc.report.base import Check, Report
    from sparsecc.runtime.compiled import Compiled
    from sparsecc.runtime.module import CompiledModule


@dataclass(frozen=True)
class Watched:
    """Who looks at the model between passes. See `compile`."""

    hooks: Sequence[Hook] = ()
    dump: Dump | None = None
    verify: Callable[[str], None] | None = None


Path = str | PathLike[str]
Shapes = Mapping[str, Sequence[int]]
TOLERANCE = 1e-3  # relative to an output's largest magnitude; fp32 sums in another order stay a hundred times below


def compile(
    model: Any,
    example_inputs: Any = None,
    *,
    recipe: Any = None,
    calibration: Iterable[Any] | Path | None = None,
    target: str = "cpu",
    threads: int | None = None,
    records: Path | None = None,
    input_shapes: Shapes | None = None,
    progress: Callable[[Passing], None] | None = None,
    scratch: Path | None = None,
    hooks: Sequence[Hook] = (),
    dump: Path | None = None,
    verify: Callable[[str], None] | None = None,
    cache: Path | None = None,
) -> Any:
    """Rewrite a model as its recipe says, and generate code for the result.

    model: nn.Module, ExportedProgram, or an ONNX file or ModelProto.  example_inputs: a tuple or a dict by name; an nn.Module needs
    them, for ONNX they are made from the shapes. Among them may be flags, None, and lists or dicts of tensors: what is compiled takes
    the tensors alone, one after another or by the names in `inputs`.
    recipe: path, dict, Recipe, or a line as "prune{pattern=4x1,sparsity=0.5} pack"; None packs the zeros that are there already.
    calibration: samples, see `calibration.samples.samples_of`: an iterable, a DataLoader, the path of an .npz.
    target: "cpu", or "cpu:skylake-avx512" and the like; "cuda" for the GPU here, or "cuda:sm_90a,sm_80" for architectures.
    cache: for GPUs, a folder in which built kernels are kept and found; None means one under ~/.cache.
    threads: None means one for each physical core.  input_shapes: of an ONNX model, by name.
    records: a file of `tune`; layers that it knows run on the fastest kernel in it, and are not measured again (on a GPU they are, with
    the knobs in it).
    progress: called by passes that take minutes.
    scratch: a folder in which the weights that `prune` makes are kept, not in memory, until code is generated for the packed ones.
    hooks: called after each pass with a `passes.pipeline.Step`.  dump: a new folder for the graph after each pass, as text, and for each
    kernel's TensorIR and assembly.  verify: called with a sentence on each pass, after which the graph is checked and run: a pass that
    breaks the model or computes something else raises SparseccError.

    For a GPU the result is a torch module (`runtime.module`): packed layers run on our kernels, all else is torch's. It takes torch models
    in bfloat16 or float16, and those that write their own buffers, as a cache of keys and values; each combination of layer and number of
    tokens is timed against cuBLAS when the GPU is here.
    For a CPU an nn.Module's weights are read again when the result meets a new input shape: leave them alone until then, or compile a copy.

    Raises UserError and its children (ModelError, RecipeError, InputError) for what the caller can mend.
    """
    from sparsecc import codegen
    from sparsecc.codegen.cpu.target import host_name
    from sparsecc.codegen.cuda.target import Target as CudaTarget
    from sparsecc.runtime.compiled import Compiled

    goal = target_of(target, threads)
    watched = Watched(hooks, None if dump is None else Dump(dump), verify)
    known = known_of(records, goal)
    if isinstance(goal, CudaTarget):
        options = {"input_shapes": input_shapes, "progress": progress, "scratch": scratch, "watched": watched}
        return _for_gpu(goal, known, model, example_inputs, recipe, calibration, cache, options)
    result = _rewrite(
        model,
        example_inputs,
        recipe,
        calibration,
        input_shapes,
        progress=progress,
        timed_on=(goal, known),
        scratch=scratch,
        numbers=True,
        watched=watched,
    )
    measured = result.measured(1)
    assert result.example is not None  # _rewrite has raised otherwise
    assert measured is not None
    report = replace(checks.against_file(account.report(result, str(target)), result, [result.example]), measured=measured)
    expected = None if goal.cannot_run else result.masked.run(result.example).outputs
    result.release()  # dense weights would only take memory while the packed ones are compiled
    kernels = watched.dump and watched.dump.kernels
    library, choices = codegen.build(result.graph, result.example, goal, known=known, dump=kernels)
    compiled = Compiled(
        inputs=result.graph.inputs,
        outputs=result.graph.outputs,
        target=goal,
        report=account.chosen(report, choices, result.graph),
        structure=result.graph.structure,
        specialize=lambda inputs: codegen.build(result.graph, inputs, goal, known=known)[0],
        to_onnx=result.graph.proto if isinstance(result.graph, HasProto) else None,
    )
    compiled.add_library(library)
    if expected is not None:
        compiled.report = replace(compiled.report, measured=replace(measured, threads=goal.threads, cpu=host_name()))
        compiled.report = _checked(compiled, result.example, expected)
    return compiled


def _for_gpu(
    goal: CudaTarget,
    known: Mapping[Any, Known],
    model: Any,
    example_inputs: Any,
    recipe: Any,
    calibration: Any,
    cache: Path | None,
    options: dict[str, Any],
) -> CompiledModule:
    from sparsecc.api import gpu

    result = _rewrite(model, example_inputs, recipe, calibration, stateful=True, **options)
    assert result.example is not None  # _rewrite has raised otherwise
    report = replace(account.report(result, f"cuda:{goal.name}"), measured=result.measured(1))
    expected = result.masked.run(result.example).outputs
    compiled = gpu.compiled(result, report, goal, known, cache)
    compiled.report = gpu.checked(compiled, result.example, expected)
    if compiled.report.check is not None:
        _warn_where_it_differs(compiled.report.check, gpu.tolerance(compiled.report))
    return compiled


def tune(
    model: Any,
    example_inputs: Any = None,
    *,
    records: Path,
    recipe: Any = None,
    calibration: Iterable[Any] | Path | None = None,
    target: str = "cpu",
    threads: int | None = None,
    input_shapes: Shapes | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cache: Path | None = None,
    tracker: str | None = None,
    key: str | None = None,
    notice: Callable[[str], None] | None = None,
) -> TuningResult:
    """Look for faster kernels for a model's layers on this machine, and note every measurement in `records`, for `compile` to use.

    trials: measurements to have for this model, those included that the file has already: the same call goes on where it was stopped.
    seconds: of this run. Whichever comes first; None and None means 32 trials for each kernel and shape.
    progress: called before each measurement.
    tracker, key: HOST:PORT of TVM's RPC tracker, and the servers to measure on instead (`sparsecc worker`), which have to be `target`.
    notice: told when such servers come and go. Everything else as for `compile`.

    Raises UserError and its children for what the caller can mend.
    """
    from sparsecc.codegen import compiler
    from sparsecc.codegen.cpu.target import detect
    from sparsecc.codegen.cuda.target import Target as CudaTarget
    from sparsecc.codegen.tuning.records import Records
    from sparsecc.codegen.tuning.tuner import Budget
    from sparsecc.codegen.tuning.tuner import tune as search
    from sparsecc.codegen.tuning.workload import Collector

    goal = target_of(target, threads)
    if any(limit is not None and not limit > 0 for limit in (trials, seconds)):
        raise UserError("trials and seconds: have to be above zero")
    if isinstance(goal, CudaTarget):
        from sparsecc.api import gpu

        rewrite = partial(_rewrite, model, example_inputs, recipe, calibration, input_shapes, stateful=True)
        if tracker is not None:
            raise UserError("tracker: servers measure for CPUs alone; tune for a GPU where it is")
        return gpu.tuned(rewrite, goal, records, cache, Budget(trials, seconds), seed, progress)
    if tracker is None and goal != detect(goal.threads):
        raise UserError(
            f"target {target!r} is not this machine, so that nothing can be measured for it; tune there, or on a fleet (tracker)"
        )
    with (
        _fleet(goal, tracker, key, notice) as fleet,
        Records(records, goal, "write") as opened,
        scratch_folder() as folder,
    ):
        result = _rewrite(model, example_inputs, recipe, calibration, input_shapes, timed_on=(goal, {}), numbers=True)
        assert result.example is not None  # _rewrite has raised otherwise
        result.release()
        collector = Collector(goal, measure=False, folder=folder)
        compiler.choose(result.graph, result.example, collector)
        if not collector.workload.layers:
            raise UserError("the model has no linear layer or convolution, so that there is nothing to tune")
        return search(collector.workload, opened, goal, Budget(trials, seconds), seed=seed, progress=progress, fleet=fleet)


def _fleet(
    target: Target, tracker: str | None, key: str | None, notice: Callable[[str], None] | None
) -> AbstractContextManager[Fleet | None]:
    """None where no tracker is named."""
    if tracker is None and key is None:
        return nullcontext()
    if tracker is None or not key:
        raise UserError("tracker and key: go together; the key says which of the tracker's servers are meant")
    from sparsecc.codegen.tuning.fleet import Fleet
    from sparsecc.codegen.tuning.tracker import address

    return Fleet(target, address(tracker), key, notice or (lambda _: None))


def convert(
    model: Any, recipe: Any, calibration: Iterable[Any] | Path | None = None, input_shapes: Shapes | None = None
) -> tuple[onnx.ModelProto, Report]:
    """Rewrite an ONNX model (a path or a ModelProto) into one that stands for itself in any onnxruntime.

    Raises UserError and its children for what the caller can mend.
    """
    graph, report = convert_graph(model, recipe, calibration, input_shapes)
    return graph.proto(), report


def convert_graph(
    model: Any,
    recipe: Any,
    calibration: Iterable[Any] | Path | None = None,
    input_shapes: Shapes | None = None,
    check: int | None = None,
    progress: Callable[[Passing], None] | None = None,
    hooks: Sequence[Hook] = (),
    dump: Path | None = None,
    verify: Callable[[str], None] | None = None,
) -> tuple[HasProto, Report]:
    """`convert`, as a graph that can save itself, also above the 2 GB that a ModelProto holds.

    check: samples to compare on, from the calibration as far as it reaches, then random ones; None: one, if the input shapes are known.
    hooks, dump, verify: as for `compile`; there are no kernels.
    Compared are the converted and the masked model, and the masked model without what the passes did and the file as it came.

    Raises ModelError when no onnxruntime could load the result.
    """
    example = "needed" if check else "if known"
    watched = Watched(hooks, None if dump is None else Dump(dump), verify)
    result = _rewrite(
        model, None, recipe, calibration, input_shapes, "needed" if verify else example, progress, destination="onnx", watched=watched
    )
    graph = result.graph
    if not isinstance(graph, HasProto):
        raise UserError(f"convert takes an ONNX model, not a {type(model).__name__}; use sparsecc.compile")
    report = account.report(result, "onnx")
    count = check if check is not None else int(result.example is not None)
    report = replace(report, measured=result.measured(max(1, count)))
    report = checks.opened(report, result, input_shapes)
    sets = list(result.samples(count))
    report = checks.against_masked(checks.against_file(report, result, sets), result, sets)
    return graph, checks.with_saturation(checks.with_growth(report, result), result)


def on_cpu(model: Any, what: str) -> Compiled:
    """The model, for what runs on CPUs alone. Raises UserError for one that was compiled for a GPU."""
    from sparsecc.runtime.compiled import Compiled

    if not isinstance(model, Compiled):
        raise UserError(f"{what}: is compiled for a GPU; load it in Python, with sparsecc.load, and call it with tensors there")
    return model


def load(path: Path, threads: int | None = None) -> Any:
    """Read what `save` of a compiled model wrote. Code for a CPU needs neither torch nor onnx, that for a GPU no compiler; its weights
    come to the current device.  threads: of code for a CPU, None means as it was compiled.

    Raises ArtifactError when the file is damaged, from another version, or for another CPU or GPU, UserError where there is no GPU.
    """
    from sparsecc.runtime.archive import kind

    if kind(path) == "cuda":
        from sparsecc.runtime import module

        return module.load(path)
    from sparsecc.runtime import compiled

    return compiled.load(path, threads)


def explain(
    model: Any,
    example_inputs: Any = None,
    *,
    recipe: Any = None,
    calibration: Iterable[Any] | Path | None = None,
    input_shapes: Shapes | None = None,
    maps: Path | None = None,
) -> str:
    """Per site: what it is, what was done, and why not more.

    model: a Compiled, a Report, or anything that `compile` takes, for which it says what the recipe would do.
    calibration: as for `compile`, for a recipe that needs it.
    maps: a folder for pictures of each attention that the recipe makes block-sparse: the maps of its heads before and after, on the first
    calibration input. It is made where it is not there; needs matplotlib.
    """
    from sparsecc.report.base import Report

    report = getattr(model, "report", model)
    if not isinstance(report, Report):
        return survey(model, example_inputs, recipe=recipe, calibration=calibration, input_shapes=input_shapes, maps=maps).explain()
    if recipe is not None or calibration is not None or maps is not None:
        raise UserError(f"a {type(model).__name__} says what was done already, so that recipe, calibration and maps come too late")
    return report.explain()


def survey(
    model: Any,
    example_inputs: Any = None,
    *,
    recipe: Any = None,
    calibration: Iterable[Any] | Path | None = None,
    input_shapes: Shapes | None = None,
    maps: Path | None = None,
) -> Report:
    """What the recipe would do to a model: nothing is compiled, and nothing run but what calibrates. maps: as for `explain`."""
    result = _rewrite(model, example_inputs, recipe, calibration, input_shapes, example="none")
    report = account.report(result, "none")
    if maps is not None:
        from sparsecc.api.maps import draw

        draw(result, report, maps)
    return report


def _rewrite(
    model: Any,
    example_inputs: Any,
    recipe: Any,
    calibration: Any,
    input_shapes: Shapes | None,
    example: Literal["needed", "if known", "none"] = "needed",
    progress: Callable[[Passing], None] | None = None,
    timed_on: tuple[Target, Mapping[Task, Known]] | None = None,
    scratch: Path | None = None,
    destination: Literal["code", "onnx"] = "code",
    numbers: bool = False,
    watched: Watched = Watched(),
    stateful: bool = False,
) -> Rewritten:
    """timed_on: for code that is generated: where layers are timed for a recipe that asks what they take, and what records know of it.
    numbers: leave out what an ONNX model returns besides tensors of numbers.  stateful: take a torch model that writes its own buffers."""
    from sparsecc.api.clock import clock_of
    from sparsecc.recipe import Recipe

    steps = Recipe.load(recipe)
    graph = sources.open_graph(model, example_inputs, input_shapes, standard=timed_on is not None, numbers=numbers, stateful=stateful)
    samples = samples_of(calibration, graph.inputs)
    known = example == "needed" or (example == "if known" and (bool(samples) or sources.shapes_known(graph.inputs)))
    inputs, source = sources.example(graph.inputs, example_inputs, samples, model) if known else (None, "random")
    clock = None if timed_on is None or inputs is None else clock_of(inputs, *timed_on, progress)
    hooks = [*watched.hooks, *([watched.dump] if watched.dump else [])]
    if watched.verify is not None and inputs is not None:
        hooks.append(Verify(inputs, tolerance_of, watched.verify))
    name, remembers = sources.name_of(model), stateful or timed_on is None  # what is timed and not stateful is code for CPUs
    return rewrite(graph, steps, samples, inputs, name, source, progress, clock, scratch, destination, hooks, remembers)


def target_of(target: str, threads: int | None) -> Target:
    """The target that a caller names. Raises UserError for one that is not known, and for what is no number of threads."""
    from sparsecc.codegen.backend import parse
    from sparsecc.codegen.cpu.threads import physical_cores, wanted

    if not isinstance(target, str):
        raise UserError(f'target: {target!r} is no name; "cpu" is this machine')
    return parse(target, wanted(threads, physical_cores()))


def known_of(records: Path | None, target: Target) -> dict[Task, Known]:
    """What a file of `tune` knows for the target; nothing where there is none."""
    if records is None:
        return {}
    from sparsecc.codegen.tuning.records import Records

    with Records(records, target, "read") as opened:
        return opened.best()


def differs(check: Check | None, allowed: float) -> bool:
    """Whether outputs are farther apart than `allowed`, relative to the largest, or cannot be compared."""
    return check is not None and not check.max_rel <= allowed


def tolerance(report: Report) -> float:
    """How far outputs may be from the masked model's, for the coarsest numbers in it, relative to the largest."""
    return tolerance_of({site.dtype for site in report.sites if site.quantized})


def tolerance_of(dtypes: Iterable[str]) -> float:
    """How far outputs of a model with weights of these types may be from those of one in which they are dense."""
    narrow = [precisions.usual(dtype) for dtype in dtypes if dtype in registry.members("precisions")]
    return max([TOLERANCE, *(precision.tolerance for precision in narrow)])


def _checked(compiled: Compiled, example: Sequence[Any], expected: Sequence[Any]) -> Report:
    """The report with the compiled model's outputs compared to the masked one's; a wrong result is not passed over in silence."""
    report = compiled.report
    checks = [report.check] if report.check else []
    checks.append(compare.compare(compiled.flat(example), expected))
    for check in checks:
        _warn_where_it_differs(check, tolerance(report))
    return replace(report, check=compare.worst(checks))


def _warn_where_it_differs(check: Check, allowed: float) -> None:
    if differs(check, allowed):
        how = f": its outputs are not alike, {check.reason}" if check.reason else f" by {check.max_rel:.2g} of its largest output"
        warnings.warn(f"the compiled model differs from the {check.against}{how}", stacklevel=4)
