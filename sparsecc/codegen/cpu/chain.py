"""What a structured layer may run on: a chain of kernels, one for each factor, or one for two factors where that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.codegen.calls import Calls
from sparsecc.codegen.cpu.operators import structured_matmul
from sparsecc.codegen.cpu.operators.structured_matmul import Blocks, StructuredSpec
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.plan import between_turns, in_tile
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import Epilogue, MatmulSpec

if TYPE_CHECKING:
    from sparsecc.structures.base import Factor, Structured


@dataclass(frozen=True)
class Step:
    """One kernel. weights: as it reads them, the bias last."""

    spec: StructuredSpec
    knobs: tuple[Tiles, ...]
    weights: list[np.ndarray]

    @property
    def key(self) -> tuple[Any, ...]:
        return ("structured_matmul", self.spec, self.knobs)

    def build(self, target: Target) -> Any:
        return structured_matmul.build(self.spec, self.knobs, target)


@dataclass(frozen=True)
class Chain:
    """Kernels that each take what the one before gives."""

    steps: tuple[Step, ...]
    target: Target

    def __str__(self) -> str:
        rows = ["+".join(f"{knobs.rows}x{knobs.tile}" for knobs in step.knobs) for step in self.steps]
        return f"structured_matmul {' then '.join(rows)}"

    @property
    def flops(self) -> int:
        return sum(step.spec.flops for step in self.steps)

    @property
    def weight_bytes(self) -> int:
        return sum(array.nbytes for step in self.steps for array in step.weights)

    def emit(self, calls: Calls, spec: MatmulSpec, x: Sequence[Any], residual: Any | None) -> Any:
        def own(x: Sequence[Any], residual: Any | None) -> Any:
            value = x[0]
            for step in self.steps:
                weights = [calls.weight(array) for array in step.weights]
                rest = residual if residual is not None and step is self.steps[-1] else weights[-1]
                kernel = calls.kernel(step.key, partial(step.build, self.target))
                value = calls.call(kernel, [value, *weights, rest], step.spec.y_shape)
            return value

        within = spec if self.steps[0].spec.tile == spec.positions else in_tile(spec, self.target)
        return between_turns(calls, own, spec, within, self.target, x, residual)

    def sample(self, spec: MatmulSpec) -> Sequence[np.ndarray]:
        return [np.random.default_rng(0).standard_normal(spec.x_shape, np.float32)]

    def bare(self) -> Chain:
        """As it is timed: without the residual, which costs every kernel the same."""
        *before, last = self.steps
        spec = replace(last.spec, epilogue=Epilogue(last.spec.epilogue.activation))
        return Chain((*before, replace(last, spec=spec)), self.target)


def chains(weight: Structured, bias: np.ndarray | None, spec: MatmulSpec, target: Target) -> list[Chain]:
    """The ways to compute a structured layer in the place of a dense one with this spec; two factors in one kernel first."""
    factors = weight.factors()
    blocks = tuple(Blocks(factor.on_diagonal, factor.weight.shape[1], factor.weight.shape[2], factor.tied) for factor in factors)
    tiles, tile = spec.batch, spec.positions
    last = len(factors) - 1

    def step(first: int, count: int) -> Step:
        epilogue = spec.epilogue if first + count - 1 == last else Epilogue()
        own = StructuredSpec(blocks[first : first + count], tiles, tile, epilogue)
        knobs = tuple(structured_matmul.space(shape, own, target)[0] for shape in own.factors)
        weights: list[np.ndarray] = []
        for i, chosen in zip(range(first, first + count), knobs, strict=True):
            array = factors[i].weight.detach().numpy()
            weights += structured_matmul.prepare(array, places(factors[i]), bias if i == last else None, chosen)
        return Step(own, knobs, weights)

    apart = Chain(tuple(step(i, 1) for i in range(len(factors))), target)
    return [Chain((step(0, 2),), target), apart] if structured_matmul.fuses(blocks, tiles, tile, target) else [apart]


def places(factor: Factor) -> np.ndarray:
    """int[outputs]: where each output goes, by the permutation after the factor."""
    count = factor.outputs
    if factor.view is None or factor.order is None:
        return np.arange(count)
    found = np.empty(count, np.int64)
    found[np.arange(count).reshape(factor.view).transpose(factor.order).ravel()] = np.arange(count)
    return found
