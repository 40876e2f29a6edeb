"""Picks what runs each layer on a GPU: all candidates run in turns, and the fastest stays, for a linear layer with each number of tokens.

Without a GPU here, what records know decides, and else the first guess of each kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.codegen.cuda import blocks, flex, launched, measure, operator
from sparsecc.codegen.cuda.alone import KINDS, AloneSpec
from sparsecc.codegen.cuda.arch import Arch, arch
from sparsecc.codegen.cuda.blob import offsets
from sparsecc.codegen.cuda.built import Builder
from sparsecc.codegen.cuda.forms import ANY_ZEROS
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec, Kernel, LinearSpec, Weights
from sparsecc.codegen.cuda.kernels import kernel_of, kernels_of, linear_kernels, module_of
from sparsecc.codegen.cuda.plan import EVERY, Plan, Step
from sparsecc.codegen.cuda.target import Target
from sparsecc.codegen.cuda.task import Task
from sparsecc.codegen.cuda.unpacking import packed
from sparsecc.codegen.task import Known

DENSE = "cublas"
THROUGH_DENSE = "unpacked, then cublas"
TORCH = "torch"
FLEX = "FlexAttention"
_FINE = 10  # maps whose sizes differ by less than a tenth of a doubling are timed once
_NOT_MEASURED = "not measured: there is no GPU here; "
_BEYOND = 4  # times the last bucket: with so many tokens the way beyond is timed


@dataclass(frozen=True)
class Row:
    """What was timed for one layer, and layers alike, and one number of tokens. us: by candidate.  chosen: one of them.
    rows, depth: as `shape` of its spec says."""

    form: str
    rows: int
    depth: int
    tokens: int
    us: Mapping[str, float]
    chosen: str


@dataclass(frozen=True)
class Choice:
    """plan: None where dense stays.  rows: what was timed, empty when nothing was.  reason: reads after the layer's name."""

    plan: Plan | None
    rows: tuple[Row, ...] = ()
    reason: str = ""

    def us(self, tokens: int) -> float | None:
        """Microseconds of what was chosen, with so many tokens or a few more; None where nothing was timed."""
        here = _for_tokens(self.rows, tokens)
        return None if here is None else here.us[here.chosen]


def _for_tokens(rows: Sequence[Row], tokens: int) -> Row | None:
    return next((row for row in rows if tokens <= row.tokens), rows[-1] if rows else None)


@dataclass
class Chooser:
    """measure: time on the GPU here.  known: from records.  One serves one compilation: layers alike are timed once."""

    target: Target
    builder: Builder
    measure: bool
    known: Mapping[Task, Known] = field(default_factory=dict)
    _made: dict[tuple[LinearSpec, int, float], Choice] = field(default_factory=dict)
    _alone: dict[tuple[AloneSpec, bool, int], Choice] = field(default_factory=dict)

    def choose(self, spec: LinearSpec, weights: Weights, tokens: int) -> Choice:
        """spec: for any number of tokens.  tokens: of the example. Raises LookupError for a form that no kernel multiplies by."""
        density = float(weights.numbers.count_nonzero()) / max(1, weights.numbers.numel()) if spec.form == ANY_ZEROS else 1.0
        key = (spec, tokens, round(density, 2))
        if key not in self._made:
            self._made[key] = self._choose(spec, weights, tokens)
        return self._made[key]

    def alone(self, spec: AloneSpec, kept: tuple[Tensor, ...] = (), flex: bool = True) -> Choice:
        """What runs a layer without packed weights. kept: what it reads beside its inputs; its size tells how much it computes.  flex:
        whether FlexAttention could run a block map, too, which takes none that is chosen in each call."""
        key = (spec, flex, round(_FINE * math.log2(1 + sum(tensor.numel() for tensor in kept))))
        if key not in self._alone:
            self._alone[key] = self._chosen(spec, kept, flex)
        return self._alone[key]

    def _chosen(self, spec: AloneSpec, kept: tuple[Tensor, ...], flex: bool) -> Choice:
        """int8 is timed beside the model's own numbers, and is the second guess: on an H200 the softmax takes longer by what reads integers
        as float32 than the products gain (17 to 20 % of the kernel's time in all)."""
        int8 = isinstance(spec, BlockAttentionSpec) and spec.int8
        ways = {"": replace(spec, int8=False), " in int8": spec} if int8 else {"": spec}
        plans = {f"{KINDS[type(spec)].kernel}{way}": plan for way, one in ways.items() if (plan := self._single(one)) is not None}
        if not plans:
            return Choice(None, reason=f"no kernel takes {spec.name} on {self.target.name}")
        first = next(iter(plans.values()))
        if not self.measure:
            return Choice(first, reason=f"{_NOT_MEASURED}knobs by the kernel's first guess")
        try:
            us, missing = _alone_us(spec, plans, kept, flex)
        except torch.cuda.OutOfMemoryError:
            return Choice(first, reason="not measured: there is no memory for copies to time it with")
        maps = isinstance(spec, BlockAttentionSpec)  # torch's own is dense attention, which gives something else
        chosen = min((one for one in us if not (maps and one == TORCH)), key=us.__getitem__)
        row, said = Row(spec.form, *spec.shape, spec.tokens, us, chosen), [f"{name} {time:.1f} µs" for name, time in us.items()]
        slower = ["dense attention would be faster"] if maps and us[TORCH] < us[chosen] else []
        return Choice(plans.get(chosen), (row,), ", ".join([*said, *missing, *slower]))

    def _single(self, spec: AloneSpec) -> Plan | None:
        """A plan of one kernel with the first of its knobs; None where none takes the spec."""
        name = KINDS[type(spec)].kernel
        options = {row: module_of(name).space(spec, row) for row in map(arch, self.target.arches)}
        binaries = {row.name: self.builder.single(name, spec, knobs[0], row) for row, knobs in options.items() if knobs}
        shown = next((str(knobs[0]) for knobs in options.values() if knobs), "")
        return Plan(spec, {}, (Step(spec.tokens, name, shown, binaries),), {}) if binaries else None

    def _choose(self, spec: LinearSpec, weights: Weights, tokens: int) -> Choice:
        candidates = self._candidates(spec)
        if not candidates:
            shape = f"{spec.rows}x{spec.depth}"
            return Choice(None, reason=f"no kernel of {spec.form} takes {shape} on {self.target.name}")
        if not self.measure:
            plan = self._plan(spec, _opened([options[0] for _, options in candidates]))
            return Choice(plan, reason=_NOT_MEASURED + self._source(spec, plan))
        return self._measured(spec, weights, tokens, candidates)

    def _source(self, spec: LinearSpec, plan: Plan) -> str:
        buckets = [(step.kernel, min(step.tokens, linear_kernels()[step.kernel].tokens[-1])) for step in plan.steps]
        by_records = [tokens for kernel, tokens in buckets if Task(kernel, replace(spec, tokens=tokens)) in self.known]
        return f"knobs by the records for {', '.join(map(str, by_records))} tokens" if by_records else "knobs by each kernel's first guess"

    def _candidates(self, spec: LinearSpec) -> list[tuple[int, list[Step]]]:
        """For ascending numbers of tokens the steps to choose from, those of the records or of first guesses."""
        kernels = kernels_of(spec.form)
        buckets = sorted({tokens for kernel in kernels.values() for tokens in kernel.tokens})
        found = [(tokens, list(self._steps(kernels, replace(spec, tokens=tokens)))) for tokens in buckets]
        return [(tokens, steps) for tokens, steps in found if steps]

    def _steps(self, kernels: Mapping[str, Kernel], spec: LinearSpec) -> list[Step]:
        steps = []
        for name, kernel in kernels.items():
            if spec.tokens not in kernel.tokens:
                continue
            binaries, shown = {}, ""
            for row in map(arch, self.target.arches):
                knobs = self._knobs(name, kernel, spec, row)
                if knobs is not None:
                    binaries[row.name] = self.builder.linear(name, spec, knobs, row)
                    shown = shown or str(knobs)
            if binaries:  # an architecture without it multiplies through the unpacked weight
                steps.append(Step(spec.tokens, name, shown, binaries))
        return steps

    def _knobs(self, name: str, kernel: Kernel, spec: LinearSpec, row: Arch) -> Any:
        known = self.known.get(Task(name, spec))
        options = kernel.space(spec, row)
        if known is not None and known.knobs in options:
            return known.knobs
        return options[0] if options else None

    def _plan(self, spec: LinearSpec, steps: Sequence[Step]) -> Plan:
        expand = {row.name: self.builder.expand(spec, row) for row in map(arch, self.target.arches)}
        return Plan(spec, offsets(kernel_of(spec.form).parts(spec)), tuple(steps), expand)

    def _measured(self, spec: LinearSpec, weights: Weights, tokens: int, candidates: list[tuple[int, list[Step]]]) -> Choice:
        device = torch.device("cuda", torch.cuda.current_device())
        runs = _Runs(spec, packed(spec, weights), device)
        steps, rows = [], []
        for bucket, options in candidates:
            plans = {step.kernel: self._plan(spec, [step]) for step in options}
            plans[THROUGH_DENSE] = replace(next(iter(plans.values())), steps=())
            us = runs.timed(bucket, plans)
            fastest = min((name for name in us if name != DENSE), key=us.__getitem__)
            chosen = next((step for step in options if step.kernel == fastest), Step(bucket, THROUGH_DENSE, ""))
            steps.append(chosen)
            rows.append(Row(spec.form, spec.rows, spec.depth, bucket, us, fastest))
        plan = self._plan(spec, _opened(steps))
        if plan.steps[-1].tokens != EVERY:
            beyond = steps[-1].tokens * _BEYOND
            us = runs.timed(beyond, {THROUGH_DENSE: plan})
            rows.append(Row(spec.form, spec.rows, spec.depth, beyond, us, THROUGH_DENSE))
        here = _for_tokens(rows, tokens)
        assert here is not None
        ours, dense = here.us[here.chosen], here.us[DENSE]
        if ours >= dense:
            reason = f"with {here.tokens} tokens cuBLAS is faster: {dense:.1f} µs, {here.chosen} {ours:.1f} µs"
            return Choice(None, tuple(rows), reason)
        return Choice(plan, tuple(rows), f"{here.chosen} {ours:.1f} µs, cuBLAS {dense:.1f} µs with {here.tokens} tokens")


def _opened(steps: Sequence[Step]) -> list[Step]:
    """The last one for any number of tokens, where its kernel takes that."""
    *others, last = steps
    kernel = linear_kernels().get(last.kernel)
    return [*others, replace(last, tokens=EVERY) if kernel is not None and kernel.any_tokens else last]


class _Runs:
    """Candidates of one layer on rotated copies of its weight."""

    def __init__(self, spec: LinearSpec, weight: Tensor, device: torch.device) -> None:
        self._spec, self._dtype, self._device = spec, getattr(torch, spec.dtype), device
        self._packed = measure.rotated(weight)
        self._dense = measure.rotated(torch.randn(spec.rows, spec.depth, device=device, dtype=self._dtype))
        self._bias = torch.randn(spec.rows, device=device, dtype=self._dtype) if spec.bias else None

    def timed(self, tokens: int, plans: Mapping[str, Plan]) -> dict[str, float]:
        """Median µs by candidate, with cuBLAS on the dense weight and what follows it by torch's own operators among them."""
        x = torch.randn(tokens, self._spec.depth, device=self._device, dtype=self._dtype)
        residual = torch.randn(tokens, self._spec.outputs, device=self._device, dtype=self._dtype) if self._spec.residual else None
        candidates: dict[str, list[Callable[[], object]]] = {}
        for name, plan in plans.items():
            key = operator.register(plan)
            operator.prepare(key, self._device)
            candidates[name] = [_call(operator.linear_cuda, x, weight, self._bias, residual, key) for weight in self._packed]
        candidates[DENSE] = [_call(_through_torch, self._spec, x, weight, self._bias, residual) for weight in self._dense]
        times = measure.in_turns(list(candidates.values()))
        return {name: spread.median for name, spread in zip(candidates, times, strict=True)}


def _alone_us(spec: AloneSpec, plans: Mapping[str, Plan], kept: tuple[Tensor, ...], with_flex: bool) -> tuple[dict[str, float], list[str]]:
    """Median µs of our kernels and of torch, over rotated copies of what a model has in memory; and why a candidate is missing."""
    kind, device = KINDS[type(spec)], torch.device("cuda", torch.cuda.current_device())
    keys = {name: operator.register(plan) for name, plan in plans.items()}
    for key in keys.values():
        launched.on(key, device)
    inputs: tuple[Tensor | None, ...] = (*kind.example(spec, device), *(tensor.to(device) for tensor in kept))
    if isinstance(spec, BlockAttentionSpec):
        seen = torch.ones(spec.batch, 1, 1, spec.tokens, dtype=torch.bool, device=device) if spec.masked else None
        inputs = (*inputs, *(() if spec.ordered else (None,)), seen)
    missing: list[str] = []
    cold = {place: measure.rotated(tensor) for place in kind.cold if (tensor := inputs[place]) is not None}
    count = min((len(copies) for copies in cold.values()), default=1)
    every = [[cold[place][i] if place in cold else tensor for place, tensor in enumerate(inputs)] for i in range(count)]
    candidates: dict[str, list[Callable[[], object]]] = {
        **{name: [_call(kind.operator, *tensors, key) for tensors in every] for name, key in keys.items()},
        TORCH: [_call(kind.torch, spec, *tensors) for tensors in every],
    }
    if isinstance(spec, BlockAttentionSpec) and with_flex:
        q, k, v, items, tiles, places, seen = inputs
        assert q is not None and k is not None and v is not None and items is not None and tiles is not None
        flexed = flex.Flexed(blocks.map_of(blocks.Packed(items, tiles, places), spec), device)
        call = _call(flexed, q, k, v, spec.scale, None if seen is None else seen[:, 0, 0])
        from torch._dynamo.exc import TorchDynamoException

        try:
            call()
            candidates[FLEX] = [call]
        except TorchDynamoException as error:  # without Triton or a C compiler
            missing.append(f"{FLEX} could not be compiled: {type(error).__name__}")
    few = {"rounds": 5, "at_least": 1} if isinstance(spec, BlockAttentionSpec) else {}  # a call takes milliseconds
    times = measure.in_turns(list(candidates.values()), **few)
    return {name: spread.median for name, spread in zip(candidates, times, strict=True)}, missing


def _call(function: Callable[..., object], *arguments: Any) -> Callable[[], object]:
    return lambda: function(*arguments)


def _through_torch(spec: LinearSpec, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    return operator.epilogue(spec, functional.linear(x, weight, bias), residual)
