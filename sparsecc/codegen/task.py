"""What a layer may run on, for the chooser and the tuner alike: a Task says what is to be computed, and with a target and knobs how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from sparsecc.codegen.backend import tunable
from sparsecc.codegen.kernel import Kernel, kernels
from sparsecc.codegen.numbers import SIZE
from sparsecc.codegen.spec import Epilogue, MatmulSpec
from sparsecc.codegen.target import Target
from sparsecc.codegen.zeros import ZeroProfile


@dataclass(frozen=True)
class Task:
    """A kernel, by the name of its file, for one spec.  structure: of the weight, None for a kernel to which zeros are nothing special."""

    kernel: str
    spec: MatmulSpec
    structure: ZeroProfile | None = None

    def row(self, target: Target) -> Kernel:
        return kernels(target.backend)[self.kernel]

    def weight_bytes(self, target: Target) -> float:
        """Of the weight and its indices as the kernel reads them, by the structure."""
        density, index = 1.0, 0.0
        if self.structure is not None:
            density, index = self.structure.density, self.row(target).index_bytes(self.structure, self.spec.dtype)
        return self.spec.rows * self.spec.depth * density * (4 / SIZE[self.spec.dtype] + index)

    @property
    def ops(self) -> float:
        """Multiplications and additions of what is stored."""
        return self.spec.flops * (self.structure.density if self.structure else 1.0)

    def moved_bytes(self, target: Target) -> float:
        """Of weights, inputs and outputs, each once."""
        return self.weight_bytes(target) + 4 * (prod(self.spec.x_shape) + prod(self.spec.y_shape))

    def space(self, target: Target) -> list[Any]:
        """The kernel's knobs, first guess first."""
        row = self.row(target)
        zeros = () if self.structure is None else row.zeros(self.structure)
        return list(row.space(tunable(target).inside(self.kernel, self.spec, target), *zeros, target))

    def __str__(self) -> str:
        spec = self.spec
        taps = f" × {len(spec.taps)} taps" if len(spec.taps) > 1 else ""
        zeros = f" {1 - self.structure.density:.0%} zeros by {self.structure.block_rows}x1" if self.structure else ""
        then = f" {spec.epilogue.activation}" if spec.epilogue.activation else ""
        dtype = f" {spec.dtype}" if spec.dtype != "float32" else ""
        return f"{self.kernel}{dtype} {spec.rows}×{spec.channels}{taps} on {spec.batch}×{spec.positions}{zeros}{then}"


@dataclass(frozen=True)
class Known:
    """The fastest knobs that were measured for a task."""

    knobs: Any
    us: float


def bare(spec: MatmulSpec) -> MatmulSpec:
    """As it is timed: without the residual, which costs every kernel the same."""
    return replace(spec, epilogue=Epilogue(spec.epilogue.activation))
