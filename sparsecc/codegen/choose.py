"""Picks a kernel for each layer: where the weight has zeros, sparse and dense run in turns on the target and the faster stays.

What the records of a tuner know about a layer is taken from there, and not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu import roofline, threads
from sparsecc.codegen.cpu.chain import Chain, Step, chains
from sparsecc.codegen.cpu.operators import block_attention
from sparsecc.codegen.cpu.operators.block_attention import BlockAttentionSpec
from sparsecc.codegen.cpu.pieces.groups import SIZE
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import KERNELS, Known, Plan, Task, bare, between_turns
from sparsecc.structures.base import Structured
from sparsecc.timing import interleave

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


@dataclass
class Chooser:
    """measure: time on this machine; otherwise (another CPU is the target) what is stored sparse runs sparse, and
    factors run one after the other where they are less work than their product.
    known: from records, for this target.

    One chooser serves one compilation; `choices` collects what it decided, in the order of the layers.
    """

    target: Target
    measure: bool = True
    known: Mapping[Task, Known] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    _functions: dict[Any, Any] = field(default_factory=dict)
    _attention_us: dict[Any, list[float]] = field(default_factory=dict)
    _us: dict[tuple[Task, ...], list[float]] = field(default_factory=dict)

    def choose(self, spec: MatmulSpec, layer: Layer) -> Plan:
        """The fastest of the layer's tasks. Beside narrow ones float32 is timed for the account only: it would compute something else."""
        numbers = layer.numbers
        ways = tasks(spec, layer, numbers.matrix, self.target)
        whole = dense_task(replace(spec, dtype="float32"))
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
        predicted = times[whole] * _share(shown, whole)
        bound = self._bound(shown.ops, shown.moved_bytes, shown.spec.dtype)
        self.choices.append(Choice(layer.site, str(plan), _decision(fastest), times[shown], times[whole], predicted, reason, bound))
        return plan

    def _times(self, timed: list[Task], numbers: Numbers, layer: Layer) -> dict[Task, float]:
        """Median µs by task, all in turns, on random inputs. Layers alike are timed once."""
        key = tuple(timed)
        if key not in self._us:
            plans = [self._plan(t, numbers if t.spec.dtype == layer.dtype else Numbers(layer.matrix), layer.bias) for t in timed]
            calls = [plan.call(self._function(plan, task.spec), task.spec)[0] for plan, task in zip(plans, timed, strict=True)]
            self._us[key] = self._timed(*calls)
        return dict(zip(timed, self._us[key], strict=True))

    def choose_structured(self, spec: MatmulSpec, layer: Layer) -> Chain | Plan:
        """For a layer whose weight is structured: its factors one after the other, fused, or their product."""
        assert isinstance(layer.weight, Structured) and layer.site is not None
        within = spec.in_tile(self.target.lanes) if spec.few else spec
        ways = chains(layer.weight, layer.bias, within, self.target)
        task = dense_task(spec)
        rival = self._plan(task, layer.numbers, layer.bias)
        if not self.measure:
            plan, what = (ways[0], "structured") if ways[0].flops < within.flops else (rival, "dense")
            self.choices.append(Choice(layer.site, str(plan), what, None, None, None, _NOT_MEASURED))
            return plan
        calls = [self._between_turns(way.bare().call(self._step), spec, within) for way in ways]
        *times, dense_us = self._timed(*calls, rival.call(self._function(rival, task.spec), task.spec)[0])
        fastest = min(range(len(ways)), key=times.__getitem__)
        us, way = times[fastest], ways[fastest]
        chosen, decision = (way, "structured") if us < dense_us else (rival, "dense")
        predicted, moved = dense_us * way.flops / spec.flops, 4 * (prod(spec.x_shape) + prod(spec.y_shape)) + way.weight_bytes
        bound = self._bound(way.flops, moved, "float32")
        self.choices.append(Choice(layer.site, str(chosen), decision, us, dense_us, predicted, _reason(us, dense_us), bound))
        return chosen

    def _between_turns(self, call: Callable[[], None], spec: MatmulSpec, within: MatmulSpec) -> Callable[[], None]:
        """A chain's call with what few tokens cost it besides."""
        if within is spec:
            return call
        turned = between_turns(lambda *_: call(), spec, within, self.target)
        x, y = (tvm_api.tensor(np.zeros(shape, np.float32)) for shape in (spec.x_shape, spec.y_shape))
        return lambda: turned(x, y)

    def note_block_attention(self, spec: BlockAttentionSpec, places: np.ndarray, keep: np.ndarray, site: str) -> None:
        """Note what skipping blocks gains: one head of middling density is timed, with its blocks and with all of them, and stands for all.

        Layers of one shape and density are timed once. There is no choice to make: dense attention would compute something else.
        """
        kernel = f"block_attention {spec.block}x{spec.block}"
        if not self.measure:
            self.choices.append(Choice(site, kernel, "sparse", None, None, None, _NOT_MEASURED))
            return
        density = keep.mean()
        key = (replace(spec, kept=0), round(float(density), 2))
        if key not in self._attention_us:
            head = int(np.argsort(keep.sum(axis=(1, 2)))[len(keep) // 2])
            own, all_blocks = keep[head : head + 1], np.ones_like(keep[:1])
            calls = [self._attention_call(spec, places[head : head + 1], blocks) for blocks in (own, all_blocks)]
            self._attention_us[key] = [us * spec.batch * spec.heads for us in self._timed(*calls)]
        us, dense_us = self._attention_us[key]
        whole = replace(spec, kept=int(keep.sum()))
        bound = self._bound(whole.flops, 4 * sum(prod(shape) for shape in whole.gathered(self.target)), "float32")
        self.choices.append(Choice(site, kernel, "sparse", us, dense_us, dense_us * density, _reason(us, dense_us), bound))

    def _attention_call(self, spec: BlockAttentionSpec, places: np.ndarray, keep: np.ndarray) -> Callable[[], None]:
        """Of one head, on random inputs."""
        head = replace(spec, batch=1, heads=1, kv_heads=1, kept=int(keep.sum()))
        gather, attend = (
            tvm_api.compile_function(build(head, self.target), self.target.llvm)
            for build in (block_attention.build_gather, block_attention.build)
        )
        where, *tables = (tvm_api.tensor(array) for array in block_attention.prepare(places, keep, head, self.target))
        random = np.random.default_rng(0)
        q, k, v = (
            tvm_api.tensor(random.standard_normal((1, 1, head.tokens, dim), np.float32))
            for dim in (head.head_dim, head.head_dim, head.value_dim)
        )
        gathered = [tvm_api.tensor(np.zeros(shape, np.float32)) for shape in head.gathered(self.target)]
        out = tvm_api.tensor(np.zeros((1, 1, head.tokens, head.value_dim), np.float32))

        def run() -> None:
            gather(q, k, v, where, *gathered)
            attend(*gathered, where, *tables, out)

        return run

    def _bound(self, ops: float, size: float, dtype: str) -> float | None:
        return roofline.bound_us(ops, size, dtype, self.target) if self.measure else None

    def _plan(self, task: Task, weight: Numbers, bias: np.ndarray | None) -> Plan:
        known = self.known.get(task)
        return task.plan(known.knobs if known else task.space(self.target)[0], weight, bias, self.target)

    def _timed(self, *calls: Callable[[], None]) -> list[float]:
        named = {str(index): call for index, call in enumerate(calls)}
        timings = threads.run(self.target.threads, lambda: interleave(named, seconds=_SECONDS, rounds=9))
        return [1e3 * timing.spread_ms.median for timing in timings.values()]

    def _step(self, step: Step) -> Callable[..., None]:
        if step.key not in self._functions:
            self._functions[step.key] = tvm_api.compile_function(step.build(self.target), self.target.llvm)
        return self._functions[step.key]

    def _function(self, plan: Plan, spec: MatmulSpec) -> Callable[..., None]:
        key = (plan.kernel, plan.knobs, spec)
        if key not in self._functions:
            self._functions[key] = plan.compile(spec)
        return self._functions[key]


def tasks(spec: MatmulSpec, layer: Layer, matrix: np.ndarray, target: Target) -> list[Task]:
    """What the layer may run on: sparse kernels, only for a layer that came packed, from the fewest bytes of weights on, and a dense one.

    matrix: of its `numbers`.  Few tokens may take sparse kernels that know tiles only: of most zeros these read the fewest bytes.
    """
    found = []
    for name, kernel in KERNELS.items() if layer.packed else ():
        if kernel.structure is None or spec.dtype not in kernel.dtypes or (kernel.few and not spec.few):
            continue
        structure = kernel.structure(matrix, spec.dtype, target)
        if structure is not None:
            found.append(Task(name, bare(spec), structure))
    return [*sorted(found, key=lambda task: task.weight_bytes), dense_task(spec)]


def dense_task(spec: MatmulSpec) -> Task:
    names = (name for name, k in KERNELS.items() if k.structure is None and k.few == spec.few and spec.dtype in k.dtypes)
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


def _share(task: Task, whole: Task) -> float:
    """Of the time of a dense kernel in float32: by the bytes of weights for few tokens, else by multiplications and how wide they are."""
    if task.spec.few:
        return task.weight_bytes / whole.weight_bytes
    return (task.structure.density if task.structure else 1.0) / SIZE[task.spec.dtype]
