"""A matrix kernel with knobs and weights, and the turns of few tokens around one that wants them in the lanes of a tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecc.codegen.calls import Calls
from sparsecc.codegen.cpu.operators import turn_tokens
from sparsecc.codegen.cpu.operators.turn_tokens import TurnSpec
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.kernel import Kernel, kernels
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec

Inside = Callable[[Sequence[Any], Any], Any]  # x, residual → y


@dataclass(frozen=True)
class Plan:
    """A kernel, its knobs, and the weights as it reads them; what it computes may have any epilogue."""

    kernel: str
    knobs: Knobs
    weights: list[np.ndarray]
    target: Target

    def __str__(self) -> str:
        return f"{self.kernel} {self.knobs}"

    @property
    def row(self) -> Kernel:
        return kernels(self.target.backend)[self.kernel]

    def build(self, spec: MatmulSpec) -> Any:
        """PrimFunc of the kernel, for X and Y as `inside` has them."""
        return self.row.build(inside(self.kernel, spec, self.target), self.knobs, self.target)

    def emit(self, calls: Calls, spec: MatmulSpec, x: Sequence[Any], residual: Any | None) -> Any:
        within = inside(self.kernel, spec, self.target)

        def own(x: Sequence[Any], residual: Any | None) -> Any:
            weights = [calls.weight(array) for array in self.weights]
            kernel = calls.kernel((self.kernel, spec, self.knobs), lambda: self.build(spec))
            return calls.call(kernel, self._arguments(x, weights, residual), within.y_shape)

        return between_turns(calls, own, spec, within, self.target, x, residual)

    def _arguments(self, x: Sequence[Any], weights: Sequence[Any], residual: Any | None) -> list[Any]:
        """What the kernel is called with before its output. The bias stands in the place of a residual, and of tokens' scales and zero
        points, where there are none."""
        bias = weights[self.row.bias]
        of_tokens = [bias, bias] if self.row.narrow and len(x) == 1 else []
        return [*x, *of_tokens, *weights, bias if residual is None else residual]

    def sample(self, spec: MatmulSpec) -> Sequence[np.ndarray]:
        random = np.random.default_rng(0).standard_normal((spec.batch, spec.channels, spec.channel_stride), np.float32)
        return groups.group_array(random, spec.dtype, self.target) if self.row.narrow else [random]


def inside(kernel: str, spec: MatmulSpec, target: Target) -> MatmulSpec:
    """The spec with X and Y as the kernel has them: few tokens lie in a tile for kernels that know nothing else."""
    return in_tile(spec, target) if spec.few and not kernels(target.backend)[kernel].few else spec


def in_tile(spec: MatmulSpec, target: Target) -> MatmulSpec:
    """The spec for few tokens in the lanes of one tile."""
    tile = -(-spec.batch // target.lanes) * target.lanes
    return MatmulSpec.linear(spec.rows, spec.channels, 1, tile, spec.epilogue, spec.dtype)


def between_turns(
    calls: Calls, own: Inside, spec: MatmulSpec, within: MatmulSpec, target: Target, x: Sequence[Any], residual: Any | None
) -> Any:
    """`own`, which has X and Y of `within`, for those of `spec`: turns of tokens before and after it where these differ."""
    if within is spec:
        return own(x, residual)

    def turned(value: Any, inner: tuple[int, ...], dtype: str = "float32", back: bool = False) -> Any:
        turn = TurnSpec(spec.batch, inner, within.positions, dtype, back)
        kernel = calls.kernel(turn, lambda: turn_tokens.build(turn, target))
        return calls.call(kernel, [value], turn.shapes[1], dtype)

    groups_first = [((spec.channel_groups,), "float32" if spec.dtype == "float32" else "int32"), ((), "float32"), ((), "int32")]
    x = [turned(part, *how) for part, how in zip(x, groups_first, strict=False)]
    residual = None if residual is None else turned(residual, (spec.rows,))
    return turned(own(x, residual), (spec.rows,), back=True)
