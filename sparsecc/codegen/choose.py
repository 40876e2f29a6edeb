"""Picks a kernel for each layer: where the weight has zeros, sparse and dense run in turns on the target and the faster stays.

What the records of a tuner know about a layer is taken from there, and not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Generic, Literal

import numpy as np

from sparsecc.codegen.backend import tunable
from sparsecc.codegen.calls import Tape, Way, recorded
from sparsecc.codegen.kernel import kernels
from sparsecc.codegen.numbers import SIZE, Numbers
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.target import T, Target
from sparsecc.codegen.task import Known, Task, bare
from sparsecc.codegen.tuning.text import text

if TYPE_CHECKING:
    from sparsecc.codegen.recognize.program import Layer

_SECONDS = 0.12  # for the turns of one site
_NOT_MEASURED = "not measured: the target is not this machine"


@dataclass(frozen=True)
class Choice:
    """What was decided for a packed, structured or quantized site. Times in µs, None when nothing was measured.

    bound_us: the least that the measured kernel could take on this machine, by peak and bandwidth.
    measured_us: of the sparse, structured or quantized kernel.  dense_us: of the dense one in float32, whichever stays.
    predicted_us: its time at the dense kernel's efficiency. That is the dense time times the share of multiply-adds that it does, over how
    many narrow numbers are multiplied at once; for few tokens, times the share of bytes that it reads.
    """

    site: str
    kernel: str
    decision: Literal["sparse", "structured", "dense"]
    measured_us: float | None
    dense_us: float | None
    predicted_us: float | None
    reason: str
    bound_us: float | None = None


@dataclass(frozen=True)
class SkippingWay:
    """emit: puts the calls of a part on a tape.  flops: by number format, of all parts, as moved_bytes."""

    kernel: str
    emit: Callable[[Tape], Any]
    flops: Mapping[str, float]
    moved_bytes: float


@dataclass(frozen=True)
class Skipping:
    """A site that leaves out some of what its dense twin computes, and computes something else thereby.

    asked: the number format that the model asks for.  ways: by number format, float32 among them; without `asked` where the target does
    not multiply such numbers.  whole: puts the calls of a part that skips nothing on a tape, in float32.  key: equal for sites alike.
    parts: of which one is timed.  density: share that is computed.  apart: what belongs to it and is not timed.
    """

    site: str
    asked: str
    ways: Mapping[str, SkippingWay]
    whole: Callable[[Tape], Any]
    key: str
    parts: int
    density: float
    apart: str = ""


Kept = Callable[[str, Callable[[], list[float]]], list[float]]
"""Times by a text that says of what, in µs; measured where they are not there."""


def in_memory() -> Kept:
    """Keeps times as long as it lives."""
    times: dict[str, list[float]] = {}

    def kept(key: str, measure: Callable[[], list[float]]) -> list[float]:
        if key not in times:
            times[key] = measure()
        return times[key]

    return kept


@dataclass
class Chooser(Generic[T]):
    """measure: time on this machine; otherwise (another CPU is the target) what is stored sparse runs sparse, and
    factors run one after the other where they are less work than their product.
    known: from records, for this target.  kept: what was timed, for this target and the kernels as they are.

    One chooser serves one compilation, or several, in which layers alike are decided alike; `choices` collects what it decided, in the
    order of the layers.
    """

    target: T
    measure: bool = True
    known: Mapping[Task, Known] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    kept: Kept = field(default_factory=in_memory)
    _functions: dict[Any, Any] = field(default_factory=dict)

    def choose(self, spec: MatmulSpec, layer: Layer) -> Way:
        """The fastest of the layer's tasks. Beside narrow ones float32 is timed for the account only: it would compute something else."""
        numbers = layer.numbers
        ways = tasks(spec, layer, numbers.matrix, self.target)
        whole = dense_task(replace(spec, dtype="float32"), self.target)
        if layer.site is None or ways == [whole]:
            return self._plan(ways[-1], numbers, layer.bias)
        timed = list(dict.fromkeys([*ways, whole]))
        known = all(task in self.known for task in timed)
        if not known and not self.measure:
            plan = self._plan(ways[0], numbers, layer.bias)
            self.choices.append(Choice(layer.site, str(plan), _decision(ways[0]), None, None, None, _NOT_MEASURED))
            return plan
        times = {task: self.known[task].us for task in timed} if known else self._times(timed, numbers, layer)
        fastest = min(ways, key=times.__getitem__)
        plan = self._plan(fastest, numbers, layer.bias)
        sparse = min((task for task in ways if task.structure), key=times.__getitem__, default=None)
        shown = sparse if sparse is not None and spec.dtype == "float32" else fastest
        reason = _reasons(times, shown, sparse, ways[-1], whole) + (", by the records" if known else "")
        predicted = times[whole] * _share(shown, whole, self.target)
        bound = self._bound(shown.ops, shown.moved_bytes(self.target), shown.spec.dtype)
        self.choices.append(Choice(layer.site, str(plan), _decision(fastest), times[shown], times[whole], predicted, reason, bound))
        return plan

    def _times(self, timed: list[Task], numbers: Numbers, layer: Layer) -> dict[Task, float]:
        """Median µs by task, all in turns, on random inputs. Layers alike are timed once."""

        def measure() -> list[float]:
            whole = numbers if layer.dtype == "float32" else Numbers(layer.matrix)
            plans = (self._plan(t, numbers if t.spec.dtype == layer.dtype else whole, layer.bias) for t in timed)
            return self._timed(*[self._run(plan, task.spec) for plan, task in zip(plans, timed, strict=True)])  # one plan at a time

        return dict(zip(timed, self.kept(" ".join(map(self._text, timed)), measure), strict=True))

    def choose_structured(self, spec: MatmulSpec, layer: Layer) -> Way:
        """For a layer whose weight is structured: its factors one after the other, fused, or their product."""
        assert layer.site is not None
        ways = tunable(self.target).factored(layer, spec, self.target)
        task = dense_task(spec, self.target)
        rival = self._plan(task, layer.numbers, layer.bias)
        if not self.measure:
            plan, what = (ways[0].way, "structured") if ways[0].flops < ways[0].dense_flops else (rival, "dense")
            self.choices.append(Choice(layer.site, str(plan), what, None, None, None, _NOT_MEASURED))
            return plan
        alike = " ".join([self._text(task), *(f"{way.timed} of {way.flops} operations and {way.weight_bytes} bytes" for way in ways)])
        runs = [partial(self._run, way.timed, bare(spec)) for way in ways]
        *times, dense_us = self.kept(alike, lambda: self._timed(*(run() for run in [*runs, partial(self._run, rival, task.spec)])))
        fastest = min(range(len(ways)), key=times.__getitem__)
        us, way = times[fastest], ways[fastest]
        chosen, decision = (way.way, "structured") if us < dense_us else (rival, "dense")
        predicted, moved = dense_us * way.flops / spec.flops, 4 * (prod(spec.x_shape) + prod(spec.y_shape)) + way.weight_bytes
        bound = self._bound(way.flops, moved, "float32")
        self.choices.append(Choice(layer.site, str(chosen), decision, us, dense_us, predicted, _reason(us, dense_us), bound))
        return chosen

    def choose_skipping(self, skipping: Skipping) -> str:
        """The number format in which a site that skips is fastest: the one that is asked for, or float32.

        A part is timed, with what is skipped and with everything, and stands for the whole; parts alike are timed once. Computing
        everything is no choice: it would compute something else.
        """
        part, asked = skipping, skipping.asked
        lacks = "" if asked in part.ways else f", this CPU does not multiply {asked}"
        if not self.measure:
            found = "float32" if lacks else asked
            self.choices.append(Choice(part.site, part.ways[found].kernel, "sparse", None, None, None, _NOT_MEASURED + lacks))
            return found

        def measure() -> list[float]:
            calls = []
            for emit in (*(way.emit for way in part.ways.values()), part.whole):
                emit(tape := tunable(self.target).tape(self.target, {}))
                calls.append(tape.run)
            return [us * part.parts for us in self._timed(*calls)]

        *every, dense_us = self.kept(part.key, measure)
        times = dict(zip(part.ways, every, strict=True))
        found = min(times, key=times.__getitem__)
        us, way = times[found], part.ways[found]
        reason = _reason(us, dense_us) + lacks
        if len(times) > 1:
            reason = f"{asked}: {_reason(times[asked], dense_us, 'dense float32')}, {_reason(times[asked], times['float32'], 'float32')}"
        reason += f", {part.apart} not counted" if part.apart else ""
        bound = self._bound_of(way.flops, way.moved_bytes)
        predicted = dense_us * part.density * sum(ops / SIZE[dtype] for dtype, ops in way.flops.items()) / sum(way.flops.values())
        self.choices.append(Choice(part.site, way.kernel, "sparse", us, dense_us, predicted, reason, bound))
        return found

    def _bound_of(self, flops: Mapping[str, float], size: float) -> float:
        """Of a kernel that multiplies several number formats, one after the other."""
        bound = tunable(self.target).bound_us
        return max(sum(bound(ops, 0, dtype, self.target) for dtype, ops in flops.items()), bound(0, size, "float32", self.target))

    def _bound(self, ops: float, size: float, dtype: str) -> float | None:
        return tunable(self.target).bound_us(ops, size, dtype, self.target) if self.measure else None

    def _plan(self, task: Task, weight: Numbers, bias: np.ndarray | None) -> Way:
        known = self.known.get(task)
        return tunable(self.target).plan(task, known.knobs if known else task.space(self.target)[0], weight, bias, self.target)

    def _text(self, task: Task) -> str:
        known = self.known.get(task)
        return text(task) if known is None else f"{text(task)} {known.knobs}"

    def _timed(self, *calls: Callable[[], None]) -> list[float]:
        return tunable(self.target).timed(self.target, calls, _SECONDS)

    def _run(self, way: Way, spec: MatmulSpec) -> Callable[[], None]:
        """A call of the way on random inputs, as it will be called.  spec: a bare one."""
        recorded(tape := tunable(self.target).tape(self.target, self._functions), way, spec)
        return tape.run


def tasks(spec: MatmulSpec, layer: Layer, matrix: np.ndarray, target: Target) -> list[Task]:
    """What the layer may run on: sparse kernels, only for a layer that came packed, from the fewest bytes of weights on, and a dense one.

    matrix: of its `numbers`.  Few tokens may take sparse kernels that know tiles only: of most zeros these read the fewest bytes.
    """
    found = []
    for name, kernel in kernels(target.backend).items() if layer.packed else ():
        if kernel.structure is None or spec.dtype not in kernel.dtypes or (kernel.few and not spec.few):
            continue
        structure = kernel.structure(matrix, spec.dtype, target)
        if structure is not None:
            found.append(Task(name, bare(spec), structure))
    return [*sorted(found, key=partial(_by_bytes, target)), dense_task(spec, target)]


def _by_bytes(target: Target, task: Task) -> tuple[float, int, bool]:
    """Of as many bytes, higher blocks come first, and kernels for many tokens before those for few."""
    assert task.structure is not None
    return task.weight_bytes(target), -task.structure.block_rows, task.row(target).few


def dense_task(spec: MatmulSpec, target: Target) -> Task:
    rows = kernels(target.backend).items()
    names = (name for name, k in rows if k.structure is None and k.few == spec.few and spec.dtype in k.dtypes)
    return Task(next(names), bare(spec))


def _decision(task: Task) -> Literal["sparse", "dense"]:
    return "dense" if task.structure is None else "sparse"


def _reason(us: float, rival_us: float, rival: str = "dense") -> str:
    return f"{rival_us / us:.2f}x as fast as {rival}" if us < rival_us else f"{rival} is {us / rival_us:.2f}x as fast"


def _reasons(times: Mapping[Task, float], shown: Task, sparse: Task | None, dense: Task, whole: Task) -> str:
    """dense: of the layer's own number format.  whole: in float32."""
    if dense == whole:
        return _reason(times[shown], times[whole])
    dtype = dense.spec.dtype
    own = f", {_reason(times[sparse], times[dense], f'dense {dtype}')}" if sparse is not None else ""
    return f"{dtype}: {_reason(times[shown], times[whole], 'dense float32')}{own}"


def _share(task: Task, whole: Task, target: Target) -> float:
    """Of the time of a dense kernel in float32: by the bytes of weights for few tokens, else by multiplications and how wide they are."""
    if task.spec.few:
        return task.weight_bytes(target) / whole.weight_bytes(target)
    return (task.structure.density if task.structure else 1.0) / SIZE[task.spec.dtype]
