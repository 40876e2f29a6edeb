"""Round column by column, and let the columns that are left make up for the errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsecc.least_squares import inverse_factor

if TYPE_CHECKING:
    from sparsecc.precisions._groups import Steps

_COLUMNS = 128  # whose errors are spread over the columns behind them at once


def gptq(
    weight: Tensor, hessian: Tensor, group: int, steps: Callable[[Tensor], Steps], nearest: Callable[[Tensor, Steps], Tensor]
) -> tuple[Tensor, list[Steps]]:
    """int16 [rows, cols], numbers less zero, and the steps of each group of columns (Frantar et al. 2022, GPTQ: Accurate Post-Training
    Quantization for Generative Pre-trained Transformers).

    weight: [rows, cols].  hessian: XᵀX of the inputs, up to a factor.  steps: of a part [rows, columns].  nearest: of a column [rows].

    Columns go from left to right. What rounding a column has cost is spread over the columns to its right, so that ‖(W - W')X‖ is least for
    it: with U the upper factor of H⁻¹, w_j -= U_ij (w_i - ŵ_i) / U_ii. Steps are found when their group is reached. Weights that are zero
    stay zero, and pass on what comes to them.
    """
    kind = torch.promote_types(weight.dtype, torch.float32)
    factor = inverse_factor(hessian).to(weight.device, kind)
    left = weight.detach().to(kind).t().clone(memory_format=torch.contiguous_format)  # [cols, rows], with all errors spread so far
    held = left == 0
    numbers = torch.empty_like(left, dtype=torch.int16)
    found: list[Steps] = []
    for start in range(0, len(left), _COLUMNS):
        stop = min(start + _COLUMNS, len(left))
        errors = torch.empty_like(left[start:stop])
        for i in range(start, stop):
            if i % group == 0:
                part = slice(i, i + group)
                found.append(steps(left[part].masked_fill(held[part], 0).t()))
            numbers[i] = nearest(left[i], found[-1]).masked_fill(held[i], 0)
            error = (left[i] - numbers[i] * found[-1].scale.to(kind)) / factor[i, i]
            left[i:stop] -= factor[i, i:stop, None] * error
            errors[i - start] = error
        left[stop:] -= factor[start:stop, stop:].t() @ errors
    return numbers.t().contiguous(), found
