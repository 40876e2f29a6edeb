"""Integers in groups of neighbouring inputs, for weights alone: w ≈ scale · (number - zero), inputs as they are.

Numbers of b bits are in [-2ᵇ⁻¹, 2ᵇ⁻¹). Symmetric, zero is 0 and a scale is the largest magnitude of its group over half of the levels;
otherwise scale and zero let the numbers reach from the least weight to the largest, with 0 among them. In both a weight of 0 is exact:
what was pruned stays so.

What is stored is number - zero modulo 2ᵇ, so that 0 means a weight of 0 in every group, and sparse formats may leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from sparsecc.precisions.base import ROW, VALUES, Group, Integers, Method, Precision, Quantized, Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ASYMMETRIC = "asymmetric"


class Steps(NamedTuple):
    """scale, zero: float32 of one shape, [rows, groups] or what a part of the columns has of it. zero: whole."""

    scale: Tensor
    zero: Tensor


@dataclass(frozen=True)
class InGroups(Precision):
    """values: see above, int8, or uint8 with two in a byte.  scales: float32 [rows, groups].  zeros: int8 [rows, groups], unless symmetric.

    group: inputs with one scale, or `row` for all of a row; the last group of a row may have fewer.
    """

    groups_known: ClassVar[tuple[Group, ...]] = (32, 64, 128, ROW)
    methods: ClassVar[tuple[Method, ...]] = ("nearest", "gptq")
    group: Group = 128
    symmetric: bool = True

    @property
    def key(self) -> str:
        return ":".join([super().key, str(self.group), *[_ASYMMETRIC] * (not self.symmetric)])

    @classmethod
    def parse(cls, options: str) -> Self | None:
        if not options:
            return cls()
        known = [cls(group, symmetric) for group in cls.groups_known for symmetric in (True, False)]
        return next((member for member in known if member.key.partition(":")[2] == options), None)

    @property
    def step(self) -> float:
        return 2 / (self._top - 1)

    @property
    def scale_names(self) -> tuple[str, ...]:
        return ("scales",) if self.symmetric else ("scales", "zeros")

    @property
    def _top(self) -> int:
        """How many numbers there are."""
        return 1 << self.value_bits

    def quantize(self, weight: Tensor, largest_input: float | None = None) -> Quantized:
        steps = self._steps(weight)
        return self._held(self._nearest(weight.float(), self._of_columns(steps, weight.shape[1])), steps)

    def quantize_for(self, weight: Tensor, hessian: Tensor) -> Quantized:
        from sparsecc.precisions._gptq import gptq  # here, because it imports torch

        steps = self._steps(weight)
        return self._held(gptq(weight, hessian, self._of_columns(steps, weight.shape[1]), self._nearest), steps)

    def _steps(self, weight: Tensor) -> Steps:
        """Of each group."""
        import torch

        rows, cols = weight.shape
        width = self._width(cols)
        filled = torch.nn.functional.pad(weight.float(), (0, -cols % width))  # zeros change nothing
        groups = filled.reshape(rows, -1, width)
        if self.symmetric:
            scale = _positive(groups.abs().amax(dim=2) / ((self._top - 1) / 2), weight.dtype)
            return Steps(scale, torch.zeros_like(scale))
        low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)  # a weight of zero is one of the numbers
        scale = _positive(high / (self._top - 1) - low / (self._top - 1), weight.dtype)
        zero = -(low / scale).round() - self._top / 2
        return Steps(scale, zero.clamp(-self._top / 2, self._top / 2 - 1))

    def _of_columns(self, steps: Steps, cols: int) -> Steps:
        return Steps(*(self._spread(of, cols) for of in steps))

    def _nearest(self, weight: Tensor, steps: Steps) -> Tensor:
        """The numbers, less zero, that weights are rounded to, in the type of these."""
        lowest, highest = -self._top / 2 - steps.zero, self._top / 2 - 1 - steps.zero
        return (weight / steps.scale).round().clamp(lowest, highest)

    def _held(self, numbers: Tensor, steps: Steps) -> Quantized:
        """numbers: whole, [rows, cols], less zero."""
        import torch

        scheme, (rows, cols), whole = Scheme(self), numbers.shape, numbers.to(torch.int16)
        values = scheme.paired((whole & 15).to(torch.uint8)) if self.value_bits == 4 else whole.to(torch.int8)
        zeros = {} if self.symmetric else {"zeros": steps.zero.to(torch.int8)}
        return Quantized(scheme, rows, cols, {VALUES: values, "scales": steps.scale, **zeros})

    def integers(self, values: Tensor, scales: Mapping[str, Tensor]) -> Integers:
        import torch

        zeros = torch.zeros_like(scales["scales"], dtype=torch.int8) if self.symmetric else scales["zeros"]
        width = self._width(values.shape[1])
        shifted = values.to(torch.int16) + self._spread(zeros, values.shape[1]) + self._top // 2
        return Integers(((shifted & self._top - 1) - self._top // 2).to(torch.int8), scales["scales"], zeros, width)

    def dequantize(self, values: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
        import torch

        found, cols = self.integers(values, scales), values.shape[1]
        less = found.numbers if self.symmetric else found.numbers.to(torch.int16) - self._spread(found.zeros, cols)
        return less.float() * self._spread(found.scales, cols)

    def _spread(self, of_groups: Tensor, cols: int) -> Tensor:
        """[rows, cols], or [rows, 1] where that says the same. Raises RuntimeError where there are not as many as groups."""
        width = self._width(cols)
        if of_groups.dim() != 2 or of_groups.shape[1] != -(-cols // width):
            raise RuntimeError(f"{tuple(of_groups.shape)} for groups of {width} in {cols} columns")
        return of_groups if of_groups.shape[1] == 1 else of_groups.repeat_interleave(width, dim=1)[:, :cols]

    def _width(self, cols: int) -> int:
        return cols if self.group == ROW else int(self.group)


def _positive(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A number of the weight's type, as kernels store it beside the integers; 1 where a group is all zero."""
    rounded = scale.to(dtype).to(scale.dtype)
    return rounded.where(rounded > 0, rounded.new_ones(()))
