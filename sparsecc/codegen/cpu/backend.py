"""The CPU, for `codegen.backend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparsecc.codegen.backend import Emitted, Factored, Recorded, TunableBackend
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.cpu import features, plan, roofline, threads
from sparsecc.codegen.cpu import target as targets
from sparsecc.codegen.cpu.chain import chains
from sparsecc.codegen.cpu.compile import compile_relax
from sparsecc.codegen.cpu.plan import Plan, in_tile
from sparsecc.codegen.cpu.tape import Tape
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import kernels, version
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.numbers import Numbers
from sparsecc.codegen.recognize.program import Layer, Program
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task
from sparsecc.structures.base import Structured
from sparsecc.timing import interleave


class _Recorded:
    task = Task

    def knobs(self, kernel: str) -> type[Knobs] | None:
        row = kernels(Target.backend).get(kernel)
        return row.knobs if row else None

    def version(self, kernel: str) -> str:
        return version(Target.backend, kernel)

    def holds_for(self, target: Target, measured: Target) -> bool:
        return target == measured


class Cpu(TunableBackend[Target]):
    target = Target
    spellings: ClassVar[tuple[str, ...]] = ("cpu", "cpu:NAME")
    recorded: ClassVar[Recorded | None] = _Recorded()

    def parse(self, text: str, threads: int) -> Target:
        return targets.parse(text, threads)

    def emit(self, program: Program, chooser: Chooser[Target]) -> Emitted:
        from sparsecc.codegen.cpu.emit.emit import emit  # with torch, whose loading measuring does not wait for

        return emit(program, chooser.target, chooser)

    def compile(self, emitted: Emitted, target: Target, dump: Path | None = None) -> Any:
        return compile_relax(emitted, target, dump)

    def inside(self, kernel: str, spec: MatmulSpec, target: Target) -> MatmulSpec:
        return plan.inside(kernel, spec, target)

    def plan(self, task: Task, knobs: Knobs, weight: Numbers, bias: np.ndarray | None, target: Target) -> Plan:
        row, spec = task.row(target), plan.inside(task.kernel, task.spec, target)
        narrow = (weight.scales, target) if row.narrow else ()
        return Plan(task.kernel, knobs, row.prepare(weight.matrix, bias, spec, knobs, *narrow), target)

    def factored(self, layer: Layer, spec: MatmulSpec, target: Target) -> Sequence[Factored]:
        assert isinstance(layer.weight, Structured)
        within = in_tile(spec, target) if spec.few else spec
        found = chains(layer.weight, layer.bias, within, target)
        return [Factored(chain, chain.bare(), chain.flops, chain.weight_bytes, within.flops) for chain in found]

    def tape(self, target: Target, functions: dict[Any, Any]) -> Tape:
        return Tape(target, functions)

    def timed(self, target: Target, calls: Sequence[Callable[[], None]], seconds: float) -> list[float]:
        named = {str(index): call for index, call in enumerate(calls)}
        timings = self.serve(target, lambda: interleave(named, seconds=seconds, rounds=9))
        return [1e3 * timing.spread_ms.median for timing in timings.values()]

    def serve(self, target: Target, answer: Callable[[], Any]) -> Any:
        return threads.run(target.threads, answer)

    def bound_us(self, ops: float, moved_bytes: float, dtype: str, target: Target) -> float:
        return roofline.bound_us(ops, moved_bytes, dtype, target)

    def features(self, task: Task, knobs: Knobs, target: Target) -> list[float]:
        return features.features(task, knobs, target)


BACKEND = Cpu()
