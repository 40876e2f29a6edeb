"""GPUs: the graph stays torch's, single layers get kernels (`lower`)."""

from __future__ import annotations

from typing import ClassVar

from sparsecc.codegen.backend import Backend
from sparsecc.codegen.cuda import target as targets
from sparsecc.codegen.cuda.target import Target


class Cuda(Backend[Target]):
    target = Target
    spellings: ClassVar[tuple[str, ...]] = ("cuda", "cuda:sm_90a", "cuda:sm_90a,sm_80")

    def parse(self, text: str, threads: int) -> Target:
        return targets.parse(text, threads)


BACKEND = Cuda()
