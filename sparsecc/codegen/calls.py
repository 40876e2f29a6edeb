"""Calls of kernels, said once for the code that is generated and for what is timed: a layer's way is written as calls on whatever takes
them, a program that is being emitted or a tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from sparsecc.codegen.spec import MatmulSpec


class Calls(Protocol):
    """Takes calls of kernels. Tensors are whatever it makes of them."""

    def weight(self, array: np.ndarray) -> Any:
        """A tensor that holds `array`, which is handed over."""
        ...

    def kernel(self, key: Any, build: Callable[[], Any]) -> Any:
        """A kernel of which `build` makes the TensorIR, once for equal keys."""
        ...

    def call(self, kernel: Any, args: list[Any], out: tuple[int, ...], dtype: str = "float32") -> Any:
        """The tensor that the kernel writes."""
        ...

    def call_for_several(self, kernel: Any, args: list[Any], outs: list[tuple[tuple[int, ...], str]]) -> list[Any]:
        """The tensors that the kernel writes.  outs: their shapes and dtypes."""
        ...


class Tape(Calls, Protocol):
    """Compiles the kernels that it is told to call, and can call them again and again."""

    def run(self) -> None:
        """All calls, in their order."""
        ...

    def values(self, tensor: Any) -> np.ndarray:
        """What a tensor holds after `run`."""
        ...


class Way(Protocol):
    """How a layer may be computed: kernels, their knobs, and the weights as they read them. Printed in the report."""

    def emit(self, calls: Calls, spec: MatmulSpec, x: Sequence[Any], residual: Any | None) -> Any:
        """Y of `spec`.  x: as the layer's number format has it, int8 with scales and zero points.  residual: None where there is none."""
        ...

    def sample(self, spec: MatmulSpec) -> Sequence[np.ndarray]:
        """A random x."""
        ...


def recorded(tape: Tape, way: Way, spec: MatmulSpec) -> Any:
    """The output of a way on random inputs, its calls on the tape.  spec: a bare one."""
    return way.emit(tape, spec, [tape.weight(array) for array in way.sample(spec)], None)
