"""Picks a kernel for each layer: where the weight has zeros, sparse and dense run in turns on the target and the faster stays.

What the records of a tuner know about a layer is taken from there, and not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.candidates import Known, Plan, Structure, Task, bare
from sparsecc.codegen.chain import Chain, Step, chains
from sparsecc.codegen.kernels import block_attention
from sparsecc.codegen.kernels.base import MatmulSpec
from sparsecc.codegen.kernels.block_attention import BlockAttentionSpec
from sparsecc.codegen.kernels.groups import SIZE
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.target import Target
from sparsecc.codegen.threads import use_threads
from sparsecc.structures.base import Structured
from sparsecc.timing import interleave

if TYPE_CHECKING:
    from sparsecc.codegen.lower.program import Layer

_SECONDS = 0.12  # for the turns of one site
_NOT_MEASURED = "not measured: the target is not this machine"


@dataclass(frozen=True)
class Choice:
    """What was decided for a packed, structured or quantized site. Times in µs, None when nothing was measured.

    measured_us: of the sparse, structured or quantized kernel.  dense_us: of the dense one in float32, whichever stays.
    predicted_us: the dense time times the share of multiply-adds that the sparse kernel does, over how many narrow numbers are multiplied
    at once: its time at the dense kernel's efficiency.
    """

    site: str
    kernel: str
    decision: Literal["sparse", "structured", "dense"]
    measured_us: float | None
    dense_us: float | None
    predicted_us: float | None
    reason: str


@dataclass
class Chooser:
    """measure: time on this machine; otherwise (another CPU is the target) what is stored sparse runs sparse.
    known: from records, for this target.

    One chooser serves one compilation; `choices` collects what it decided, in the order of the layers.
    """

    target: Target
    measure: bool = True
    known: Mapping[Task, Known] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    _functions: dict[Any, Any] = field(default_factory=dict)
    _attention_us: dict[Any, list[float]] = field(default_factory=dict)
    _quantized_us: dict[tuple[Task, ...], list[float]] = field(default_factory=dict)

    def choose(self, spec: MatmulSpec, layer: Layer) -> Plan:
        numbers = layer.numbers
        sparse, dense = tasks(spec, layer, numbers.matrix)
        if layer.site is not None and spec.dtype != "float32":
            return self._choose_quantized(spec, layer, layer.site, numbers, [task for task in (sparse, dense) if task])
        if sparse is None or layer.site is None:
            return self._plan(dense, numbers, layer.bias)
        if sparse in self.known and dense in self.known:
            faster = sparse if self.known[sparse].us < self.known[dense].us else dense
            plan = self._plan(faster, numbers, layer.bias)
            self._note(layer.site, plan, self.known[sparse].us, self.known[dense].us, _density(sparse), ", by the records")
            return plan
        plan = self._plan(sparse, numbers, layer.bias)
        if not self.measure:
            self.choices.append(Choice(layer.site, str(plan), "sparse", None, None, None, _NOT_MEASURED))
            return plan
        rival = self._plan(dense, numbers, layer.bias)
        sparse_us, dense_us = self._turns(bare(spec), plan, rival)
        chosen = plan if sparse_us < dense_us else rival
        self._note(layer.site, chosen, sparse_us, dense_us, plan.weights[0].size / rival.weights[0].size)
        return chosen

    def _choose_quantized(self, spec: MatmulSpec, layer: Layer, site: str, numbers: Numbers, ways: list[Task]) -> Plan:
        """The fastest of the ways to multiply narrow numbers. float32 is timed for the account only: it would compute something else."""
        if not self.measure:
            plan = self._plan(ways[0], numbers, layer.bias)
            self.choices.append(Choice(site, str(plan), _decision(ways[0]), None, None, None, _NOT_MEASURED))
            return plan
        whole = Task("dense_matmul", replace(bare(spec), dtype="float32"))
        key = (*ways, whole)
        if all(task in self.known for task in key):
            times = [self.known[task].us for task in key]
        elif key not in self._quantized_us:  # layers alike are timed once
            plans = [*(self._plan(way, numbers, layer.bias) for way in ways), self._plan(whole, Numbers(layer.matrix), layer.bias)]
            calls = [plan.call(self._function(plan, task.spec), task.spec)[0] for plan, task in zip(plans, key, strict=True)]
            times = self._quantized_us[key] = self._timed(*calls)
        else:
            times = self._quantized_us[key]
        *own, whole_us = times
        fastest = min(range(len(ways)), key=own.__getitem__)
        plan = self._plan(ways[fastest], numbers, layer.bias)
        reason = f"{spec.dtype}: {_reason(own[fastest], whole_us, 'dense float32')}"
        if len(ways) > 1:
            reason += f", {_reason(own[0], own[1], f'dense {spec.dtype}')}"
        predicted = whole_us * _density(ways[fastest]) / SIZE[spec.dtype]
        self.choices.append(Choice(site, str(plan), _decision(ways[fastest]), own[fastest], whole_us, predicted, reason))
        return plan

    def choose_structured(self, spec: MatmulSpec, layer: Layer) -> Chain | Plan:
        """For a layer whose weight is structured: its factors one after the other, fused, or their product."""
        assert isinstance(layer.weight, Structured) and layer.site is not None
        ways = chains(layer.weight, layer.bias, spec, self.target)
        if not self.measure:
            self.choices.append(Choice(layer.site, str(ways[0]), "structured", None, None, None, _NOT_MEASURED))
            return ways[0]
        rival = self._plan(Task("dense_matmul", bare(spec)), layer.numbers, layer.bias)
        calls = [way.bare().call(self._step) for way in ways]
        *times, dense_us = self._timed(*calls, rival.call(self._function(rival, bare(spec)), bare(spec))[0])
        fastest = min(range(len(ways)), key=times.__getitem__)
        us, way = times[fastest], ways[fastest]
        chosen, decision = (way, "structured") if us < dense_us else (rival, "dense")
        self.choices.append(
            Choice(layer.site, str(chosen), decision, us, dense_us, dense_us * way.flops / spec.flops, _reason(us, dense_us))
        )
        return chosen

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
        self.choices.append(Choice(site, kernel, "sparse", us, dense_us, dense_us * density, _reason(us, dense_us)))

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

    def _plan(self, task: Task, weight: Numbers, bias: np.ndarray | None) -> Plan:
        known = self.known.get(task)
        return task.plan(known.knobs if known else task.space(self.target)[0], weight, bias, self.target)

    def _note(self, site: str, chosen: Plan, sparse_us: float, dense_us: float, share: float, source: str = "") -> None:
        faster = sparse_us < dense_us
        decision, reason = "sparse" if faster else "dense", _reason(sparse_us, dense_us) + source
        self.choices.append(Choice(site, str(chosen), decision, sparse_us, dense_us, dense_us * share, reason))

    def _turns(self, spec: MatmulSpec, *plans: Plan) -> list[float]:
        """Median µs of each plan, in turns, on random inputs."""
        return self._timed(*(plan.call(self._function(plan, spec), spec)[0] for plan in plans))

    def _timed(self, *calls: Callable[[], None]) -> list[float]:
        use_threads(self.target.threads)
        timings = interleave({str(index): call for index, call in enumerate(calls)}, seconds=_SECONDS, rounds=9)
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


def tasks(spec: MatmulSpec, layer: Layer, matrix: np.ndarray) -> tuple[Task | None, Task]:
    """What the layer may run on, sparse and dense; no sparse kernel for a layer that did not come packed.  matrix: of its `numbers`."""
    sparse, dense = ("row_block_spmm", "dense_matmul") if spec.dtype == "float32" else ("sparse_group_matmul", "dense_group_matmul")
    own = Task(sparse, bare(spec), Structure.of(matrix, spec.dtype)) if layer.packed else None
    return own, Task(dense, bare(spec))


def _decision(task: Task) -> Literal["sparse", "dense"]:
    return "dense" if task.structure is None else "sparse"


def _reason(us: float, rival_us: float, rival: str = "dense") -> str:
    return f"{rival_us / us:.2f}x as fast as {rival}" if us < rival_us else f"{rival} is {us / rival_us:.2f}x as fast"


def _density(task: Task) -> float:
    return task.structure.density if task.structure else 1.0
