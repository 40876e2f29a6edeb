"""8-bit integers: a scale for each output channel of the weight, a scale and a zero point for each token of the input.

Scales of tokens and of output channels are what Dettmers et al. 2022 (LLM.int8()) call vector-wise. Their tokens are symmetric. Here the
numbers lie between a token's least and largest input, or zero, as Jacob et al. 2018 place them: behind a GELU nearly all of a token is on
one side of zero. A product has one term more for it, Σ (q - z)·w = Σ q·w - z·Σ w. Calibrated, all inputs of a layer have one scale, found
before, and zero in the middle.

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
HALF_SPAN = 126  # half of the steps between the ends of a token: the last bit of a division may add one, and all stay within LEVELS
WEIGHT_LEVELS = {8: LEVELS, 7: 64}  # by bits
_CALIBRATED = "calibrated"
_ZERO = 128  # the zero point of unsigned inputs


@dataclass(frozen=True)
class Int8(Precision):
    """w ≈ scales[row] · values,  x ≈ s · (round(x / s + z) - z) with s = (max(x, 0) - min(x, 0)) / 252 and z = round(-min(x, 0) / s) - 126
    of the token. Where calibrated s is input_scale, z is 0.

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
        low, high = x.amin(dim=-1, keepdim=True).clamp(max=0), x.amax(dim=-1, keepdim=True).clamp(min=0)
        scale = _scale(high / 2 - low / 2, HALF_SPAN)  # of halves, whose distance no type has as infinity
        zero = (-low / scale).round() - HALF_SPAN
        return ((x / scale + zero).round() - zero) * scale

    def product(self, nodes: Nodes[T], x: T, weight: T, scales: Mapping[str, T]) -> T:
        if not self.calibrated:
            levels, scale, zero = _levels_of_tokens(nodes, x)
            sums = nodes.op("Sub", self._sums(nodes, levels, weight), nodes.op("Mul", nodes.cast(zero, "int32"), _total(nodes, weight)))
            return _scaled(nodes, sums, scale, scales["scales"])
        scale = scales["input_scale"]
        if not self._narrow:
            middle = nodes.tensor(np.array(_ZERO, np.uint8))
            levels = nodes.op("QuantizeLinear", _clipped(nodes, x, scale), scale, middle)
            return _scaled(nodes, self._sums(nodes, levels, weight, middle), scale, scales["scales"])
        zero = nodes.tensor(np.array(0, np.int8))
        rounded = nodes.op("DequantizeLinear", nodes.op("QuantizeLinear", _clipped(nodes, x, scale), scale, zero), scale, zero)
        return nodes.op("MatMul", rounded, nodes.op("DequantizeLinear", weight, scales["scales"], axis=1))

    @property
    def _narrow(self) -> bool:
        """Whether two products of a weight and an unsigned input fit into 16 bits."""
        return 2 * 255 * WEIGHT_LEVELS[self.weight_bits] < 1 << 15

    def _sums(self, nodes: Nodes[T], levels: T, weight: T, *zero: T) -> T:
        """int32.  levels: the inputs as uint8, with `zero` in the place of zero where it is given."""
        parts = [weight] if self._narrow else _halves(nodes, weight)
        products = [nodes.op("MatMulInteger", levels, part, *zero) for part in parts]
        return products[0] if len(products) == 1 else nodes.op("Add", *products)


def _scaled(nodes: Nodes[T], sums: T, scale: T, scales: T) -> T:
    """scale: what inputs are multiples of.  scales: of the outputs."""
    return nodes.op("Mul", nodes.op("Mul", nodes.cast(sums, "float32"), scale), scales)


def _total(nodes: Nodes[T], weight: T) -> T:
    """The weights of each output together, which runtimes compute once, when they load the model."""
    return nodes.op("ReduceSum", nodes.cast(weight, "int32"), nodes.tensor(np.array([0], np.int64)), keepdims=0)


def _clipped(nodes: Nodes[T], x: T, scale: T) -> T:
    # -128 has no negative: runtimes would use it, while values stay within ±127
    limit = nodes.op("Mul", scale, nodes.tensor(np.array(LEVELS, np.float32)))
    return nodes.op("Clip", x, nodes.op("Neg", limit), limit)


def _levels_of_tokens(nodes: Nodes[T], x: T) -> tuple[T, T, T]:
    """x as uint8, what each token's numbers are multiples of, and what stands for zero.

    QuantizeLinear rounds and narrows in one pass over x, Round and Cast take two. The zero point adds two passes over the outputs. Against
    symmetric tokens a layer takes 0.94 of the time from 1536 inputs to 384 outputs, 1.04 from 768 to 768, 1.19 from 384 to 1536 (128
    tokens, onnxruntime 1.32, one thread of a Zen 5). With DequantizeLinear in the place of Cast and a product it is 1.1 to 1.7.
    """
    nothing, one, half, steps, lowest = (nodes.tensor(np.array(number, np.float32)) for number in (0, 1, 0.5, HALF_SPAN, _ZERO - HALF_SPAN))
    low, high = nodes.op("Min", nodes.least(x), nothing), nodes.op("Max", nodes.largest(x), nothing)
    span = nodes.op("Sub", nodes.op("Mul", high, half), nodes.op("Mul", low, half))
    scale = nodes.op("Div", span, steps)
    scale = nodes.op("Where", nodes.op("Greater", scale, nothing), scale, one)
    zero = nodes.op("Add", nodes.op("Round", nodes.op("Div", nodes.op("Neg", low), scale)), lowest)
    levels = nodes.op("Add", nodes.op("Div", x, scale), zero)
    return nodes.op("QuantizeLinear", levels, one, nodes.tensor(np.array(0, np.uint8))), scale, zero


def _halves(nodes: Nodes[T], weight: T) -> list[T]:
    """Two int8 matrices within ±64 whose sum is `weight`; runtimes compute them once, when they load the model."""
    wide = nodes.cast(weight, "int32")
    half = nodes.op("Div", wide, nodes.tensor(np.array(2, np.int32)))
    return [nodes.cast(part, "int8") for part in (half, nodes.op("Sub", wide, half))]


def _scale(largest: Tensor, levels: int = LEVELS) -> Tensor:
    """1 where all is zero, or too small for a step."""
    scale = largest / levels
    return scale.where(scale > 0, scale.new_ones(()))
