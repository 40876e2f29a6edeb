"""GPUs: the graph stays torch's, single layers get kernels (`lower`)."""

from __future__ import annotations

from typing import Any, ClassVar

from sparsecc.codegen.backend import Backend, Recorded
from sparsecc.codegen.cuda import built
from sparsecc.codegen.cuda import target as targets
from sparsecc.codegen.cuda.kernels import linear_kernels
from sparsecc.codegen.cuda.target import Target
from sparsecc.codegen.cuda.task import Task


class _Recorded:
    task = Task

    def knobs(self, kernel: str) -> type[Any] | None:
        row = linear_kernels().get(kernel)
        return row.knobs if row else None

    def version(self, kernel: str) -> str:
        return built.version(kernel)

    def holds_for(self, target: Target, measured: Target) -> bool:
        """An architecture without a device takes what any device of it has shown."""
        return target == measured if target.device else set(measured.arches) <= set(target.arches)


class Cuda(Backend[Target]):
    target = Target
    spellings: ClassVar[tuple[str, ...]] = ("cuda", "cuda:sm_90a,..")

    recorded: ClassVar[Recorded | None] = _Recorded()

    def parse(self, text: str, threads: int) -> Target:
        return targets.parse(text, threads)


BACKEND = Cuda()
