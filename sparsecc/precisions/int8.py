"""8-bit integers, symmetric: a scale for each output channel of the weight, and one for each token of the input.

Dettmers et al. 2022 (LLM.int8()) call this vector-wise. Calibrated, all inputs of a layer have one scale, found before.
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
_CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Int8(Precision):
    """w ≈ scales[row] · values,  x ≈ s · round(x / s) with s = max|x| / 127 of the token, or input_scale where calibrated.

    scales: float32 [rows].  input_scale: float32, no dimensions; inputs beyond 127 times it are clipped.
    """

    value_bits: ClassVar[int] = 8
    calibrated: bool = False

    @property
    def key(self) -> str:
        return f"{super().key}:{_CALIBRATED}" if self.calibrated else super().key

    @property
    def scale_names(self) -> tuple[str, ...]:
        return ("scales", "input_scale") if self.calibrated else ("scales",)

    @classmethod
    def parse(cls, options: str) -> Self | None:
        return cls(options == _CALIBRATED) if options in ("", _CALIBRATED) else None

    def quantize(self, weight: Tensor, largest_input: float | None = None) -> Quantized:
        import torch

        scales = _scale(weight.float().abs().amax(dim=1))
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


def _scale(largest: Tensor) -> Tensor:
    """1 where all is zero."""
    return (largest / LEVELS).where(largest > 0, largest.new_ones(()))
