"""8-bit integers, symmetric: a scale for each output channel of the weight, and one for each token of the input.

Dettmers et al. 2022 (LLM.int8()) call this vector-wise. Calibrated, all inputs of a layer have one scale, found before.

Weights may take 7 bits. x86 CPUs without VNNI multiply unsigned by signed bytes with `pmaddubsw`, which adds two neighbouring products in
16 bits and saturates: 255·127·2 does not fit, 255·64·2 does. Generated code never saturates. onnxruntime's does, so that a file for it
either has such weights or multiplies twice (`ops/quantized_linear/onnx.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from sparsecc.errors import ModelError
from sparsecc.precisions.base import VALUES, Precision, Quantized, Scheme

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 127  # values are in [-LEVELS, LEVELS], so that zero is exact and a sign can always be turned
WEIGHT_LEVELS = {8: LEVELS, 7: 64}  # by bits
_CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Int8(Precision):
    """w ≈ scales[row] · values,  x ≈ s · round(x / s) with s = max|x| / 127 of the token, or input_scale where calibrated.

    scales: float32 [rows].  input_scale: float32, no dimensions; inputs beyond 127 times it are clipped.
    weight_bits: 8, or 7 for values in [-64, 64].
    """

    value_bits: ClassVar[int] = 8
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


def _scale(largest: Tensor, levels: int = LEVELS) -> Tensor:
    """1 where all is zero."""
    return (largest / levels).where(largest > 0, largest.new_ones(()))
