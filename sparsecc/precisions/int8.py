"""8-bit integers, symmetric: a scale for each output channel of the weight, and one for each token of the input.

Dettmers et al. 2022 (LLM.int8()) call this vector-wise. Calibrated, all inputs of a layer have one scale, found before.

Weights may take 7 bits. x86 CPUs without VNNI multiply unsigned by signed bytes with `pmaddubsw`, which adds two neighbouring products in
16 bits and saturates: 255·127·2 does not fit, 255·64·2 does. Generated code never saturates. onnxruntime's does.

In ONNX files one scale for all inputs is QuantizeLinear and DequantizeLinear around a MatMul, which runtimes recognize and turn into an
int8 product; a scale for each token, which these operators cannot say, is MatMulInteger and the arithmetic of scales around it. Which
integers are multiplied decides on what CPU the result is right, and how fast it is there. Measured with onnxruntime 1.32, 768 to 3072
inputs and 128 tokens, 2 threads, in parts of the float32 product's time (a Zen 4 that shows AVX2 only; a Xeon with VNNI and AMX):

    signed · signed            2.8 to 3.6; 3.0 to 4.6   exact
    unsigned · unsigned        0.5 to 1.0; 0.6 to 1.3   exact
    unsigned · signed, 8 bits  0.3 to 0.7; 0.2 to 0.5   without VNNI off by 20 % of the largest output
    unsigned · signed, 7 bits  as above; 0.1 to 0.7     exact

So weights in 7 bits are multiplied once. Weights in 8 bits are halved, and multiplied twice: exact, 0.5 to 2 there; 0.6 to 1.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from sparsecc.errors import ModelError
from sparsecc.precisions.base import VALUES, Nodes, Precision, Quantized, Scheme, T

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 127  # values are in [-LEVELS, LEVELS], so that zero is exact and a sign can always be turned
WEIGHT_LEVELS = {8: LEVELS, 7: 64}  # by bits
_CALIBRATED = "calibrated"
_ZERO = 128  # the zero point of unsigned inputs


@dataclass(frozen=True)
class Int8(Precision):
    """w ≈ scales[row] · values,  x ≈ s · round(x / s) with s = max|x| / 127 of the token, or input_scale where calibrated.

    scales: float32 [rows].  input_scale: float32, no dimensions; inputs beyond 127 times it are clipped.
    weight_bits: 8, or 7 for values in [-64, 64].
    """

    value_bits: ClassVar[int] = 8
    rounds_inputs: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.15  # BERT-base with random weights is off by 0.06
    calibrates: ClassVar[bool] = True
    weight_bits_known: ClassVar[tuple[int, ...]] = tuple(WEIGHT_LEVELS)
    examples = ("", "calibrated", "7", "calibrated:7")
    calibrated: bool = False
    weight_bits: int = 8

    @property
    def key(self) -> str:
        options = [_CALIBRATED] * self.calibrated + [str(self.weight_bits)] * (self.weight_bits != 8)
        return ":".join([super().key, *options])

    @property
    def step(self) -> float:
        return 1 / WEIGHT_LEVELS[self.weight_bits]

    @property
    def scale_names(self) -> tuple[str, ...]:
        return ("scales", "input_scale") if self.calibrated else ("scales",)

    @classmethod
    def parse(cls, options: str) -> Self | None:
        found = {cls(calibrated, bits).key.partition(":")[2]: (calibrated, bits) for calibrated in (False, True) for bits in WEIGHT_LEVELS}
        return cls(*found[options]) if options in found else None

    def quantize(self, weight: Tensor, largest_input: float | None = None) -> Quantized:
        import torch

        scales = _scale(weight.float().abs().amax(dim=1), WEIGHT_LEVELS[self.weight_bits])
        values = (weight.float() / scales[:, None]).round().to(torch.int8)
        tensors = {VALUES: values, "scales": scales}
        if self.calibrated:
            if largest_input is None:
                raise ModelError("a calibrated scale needs calibration inputs")
            tensors["input_scale"] = _scale(torch.tensor(largest_input, dtype=torch.float32))
        return Quantized(Scheme(self), weight.shape[0], weight.shape[1], tensors)

    def dequantize(self, values: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        return values.float() * scales["scales"].reshape(-1, 1)

    def round_inputs(self, x: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        if self.calibrated:
            scale = scales["input_scale"].to(x.dtype)
            return (x / scale).round().clamp(-LEVELS, LEVELS) * scale
        scale = _scale(x.abs().amax(dim=-1, keepdim=True))
        return (x / scale).round() * scale

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        if not self.calibrated:
            scale, levels = _levels_of_tokens(nodes, x)
            return self._scaled(nodes, levels, weight, scale, scales["scales"])
        scale = scales["input_scale"]
        if not self._narrow:
            levels = nodes.op("QuantizeLinear", _clipped(nodes, x, scale), scale, nodes.tensor(np.array(_ZERO, np.uint8)))
            return self._scaled(nodes, levels, weight, scale, scales["scales"])
        zero = nodes.tensor(np.array(0, np.int8))
        rounded = nodes.op("DequantizeLinear", nodes.op("QuantizeLinear", _clipped(nodes, x, scale), scale, zero), scale, zero)
        return nodes.op("MatMul", rounded, nodes.op("DequantizeLinear", weight, scales["scales"], axis=1))

    @property
    def _narrow(self) -> bool:
        """Whether two products of a weight and an unsigned input fit into 16 bits."""
        return 2 * 255 * WEIGHT_LEVELS[self.weight_bits] < 1 << 15

    def _scaled(self, nodes: Nodes[T], levels: T, weight: T, scale: T, scales: T) -> T:
        """levels: the inputs, uint8 with _ZERO in the place of zero.  scale: what they are multiples of."""
        zero = nodes.tensor(np.array(_ZERO, np.uint8))
        parts = [weight] if self._narrow else _halves(nodes, weight)
        products = [nodes.op("MatMulInteger", levels, part, zero) for part in parts]
        sums = products[0] if len(products) == 1 else nodes.op("Add", *products)
        return nodes.op("Mul", nodes.op("Mul", nodes.cast(sums, "float32"), scale), scales)


def _clipped(nodes: Nodes[T], x: T, scale: T) -> T:
    # -128 has no negative: runtimes would use it, while values stay within ±127
    limit = nodes.op("Mul", scale, nodes.tensor(np.array(LEVELS, np.float32)))
    return nodes.op("Clip", x, nodes.op("Neg", limit), limit)


def _levels_of_tokens(nodes: Nodes[T], x: T) -> tuple[T, T]:
    """The scale of each token, and x in multiples of it."""
    largest = nodes.largest(nodes.op("Abs", x))
    scale = nodes.op("Div", largest, nodes.tensor(np.array(LEVELS, np.float32)))
    zero, one, middle = (nodes.tensor(np.array(number, np.float32)) for number in (0, 1, _ZERO))
    scale = nodes.op("Where", nodes.op("Greater", largest, zero), scale, one)
    return scale, nodes.cast(nodes.op("Add", nodes.op("Round", nodes.op("Div", x, scale)), middle), "uint8")


def _halves(nodes: Nodes[T], weight: T) -> list[T]:
    """Two int8 matrices within ±64 whose sum is `weight`; runtimes compute them once, when they load the model."""
    wide = nodes.cast(weight, "int32")
    half = nodes.op("Div", wide, nodes.tensor(np.array(2, np.int32)))
    return [nodes.cast(part, "int8") for part in (half, nodes.op("Sub", wide, half))]


def _scale(largest: Tensor, levels: int = LEVELS) -> Tensor:
    """1 where all is zero."""
    return (largest / levels).where(largest > 0, largest.new_ones(()))
