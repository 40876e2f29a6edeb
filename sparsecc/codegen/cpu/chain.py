"""What a structured layer may run on: a chain of kernels, one for each factor, or one for two factors where that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import structured_matmul
from sparsecc.codegen.cpu.operators.structured_matmul import Blocks, StructuredSpec
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import Epilogue, Knobs, MatmulSpec

if TYPE_CHECKING:
    from sparsecc.structures.base import Factor, Structured


@dataclass(frozen=True)
class Step:
    """One kernel. weights: as it reads them, the bias last."""

    spec: StructuredSpec
    knobs: tuple[Knobs, ...]
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

    def __str__(self) -> str:
        rows = ["+".join(f"{knobs.rows}x{knobs.tile}" for knobs in step.knobs) for step in self.steps]
        return f"structured_matmul {' then '.join(rows)}"

    @property
    def flops(self) -> int:
        return sum(step.spec.flops for step in self.steps)

    @property
    def weight_bytes(self) -> int:
        return sum(array.nbytes for step in self.steps for array in step.weights)

    def inside(self, spec: MatmulSpec) -> MatmulSpec:
        """The spec of the layer with X and Y as the chain has them."""
        tile = self.steps[0].spec.tile
        return spec if tile == spec.positions else spec.in_tile(tile)

    def bare(self) -> Chain:
        """As it is timed: without the residual, which costs every kernel the same."""
        *before, last = self.steps
        spec = replace(last.spec, epilogue=Epilogue(last.spec.epilogue.activation))
        return Chain((*before, replace(last, spec=spec)))

    def call(self, function: Callable[[Step], Callable[..., None]]) -> Callable[[], None]:
        """A call of a bare chain on random inputs. function: compiles a step."""
        x = tvm_api.tensor(np.random.default_rng(0).standard_normal(self.steps[0].spec.x_shape, np.float32))
        calls: list[tuple[Callable[..., None], list[Any]]] = []
        for step in self.steps:
            weights = [tvm_api.tensor(array) for array in step.weights]
            y = tvm_api.tensor(np.zeros(step.spec.y_shape, np.float32))
            calls.append((function(step), [x, *weights, weights[-1], y]))
            x = y

        def run() -> None:
            for compiled, arguments in calls:
                compiled(*arguments)

        return run


def chains(weight: Structured, bias: np.ndarray | None, spec: MatmulSpec, target: Target) -> list[Chain]:
    """The ways to compute a structured layer in the place of a dense one with this spec; two factors in one kernel first."""
    factors = weight.factors()
    blocks = tuple(Blocks(*factor.weight.shape) for factor in factors)
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

    apart = Chain(tuple(step(i, 1) for i in range(len(factors))))
    return [Chain((step(0, 2),)), apart] if structured_matmul.fuses(blocks, tiles, tile, target) else [apart]


def places(factor: Factor) -> np.ndarray:
    """int[blocks·rows]: where each output goes, by the permutation after the factor."""
    count = factor.weight.shape[0] * factor.weight.shape[1]
    if factor.view is None or factor.order is None:
        return np.arange(count)
    found = np.empty(count, np.int64)
    found[np.arange(count).reshape(factor.view).transpose(factor.order).ravel()] = np.arange(count)
    return found
