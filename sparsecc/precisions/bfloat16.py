"""bfloat16: the upper half of a float32, eight bits of it for the mantissa. Weights and inputs are rounded to it, sums are float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sparsecc.precisions.base import VALUES, Nodes, Precision, Quantized, Scheme, T

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BFloat16(Precision):
    """No scales: its exponents are those of float32."""

    value_bits: ClassVar[int] = 16
    rounds_inputs: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.03  # BERT-base with random weights is off by 0.01
    examples = ("",)

    @property
    def step(self) -> float:
        return 2**-7

    @classmethod
    def parse(cls, options: str) -> Self | None:
        return cls() if not options else None

    def quantize(self, weight: Tensor, largest_input: float | None = None) -> Quantized:
        return Quantized(Scheme(self), weight.shape[0], weight.shape[1], {VALUES: weight.bfloat16()})

    def dequantize(self, values: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        return values.float()

    def round_inputs(self, x: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        return x.bfloat16().to(x.dtype)

    def numbers(self, nodes: Nodes[T], values: T, x: T) -> T:
        return nodes.op("CastLike", values, x)  # runtimes cast bfloat16, and do little else with it

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        return nodes.op("MatMul", nodes.op("CastLike", nodes.cast(x, "bfloat16"), x), weight)
