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


def gptq(weight: Tensor, hessian: Tensor, steps: Steps, nearest: Callable[[Tensor, Steps], Tensor]) -> Tensor:
    """[rows, cols], whole: numbers less zero (Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers).

    weight: [rows, cols].  hessian: XᵀX of the inputs, up to a factor.  steps: of each column, or of all, [rows, cols] or [rows, 1].
    nearest: of a column.

    Columns go one after the other, those of the strongest inputs first. What rounding one has cost is spread over those that are left, so
    that ‖(W - W')X‖ is least for it: with U the upper factor of H⁻¹, w_j -= U_ij (w_i - ŵ_i) / U_ii. Steps are those of the weight as it
    came, so that the order leaves no trace in what is stored. MiniLM in int4: cosine 0.986, and 0.983 with columns from left to right and
    steps of what their groups have become. Weights that are zero stay zero, and pass on what comes to them.
    """
    order = hessian.diagonal().argsort(descending=True, stable=True)
    kind = torch.promote_types(weight.dtype, torch.float32)
    factor = inverse_factor(hessian[order][:, order]).to(weight.device, kind)
    order = order.to(weight.device)
    left = weight.detach().to(kind).t()[order].contiguous()  # [cols, rows], with all errors spread so far
    scale, zero = (of.to(kind).t().expand(left.shape)[order].contiguous() for of in steps)
    held, numbers = left == 0, torch.empty_like(left)
    for start in range(0, len(left), _COLUMNS):
        stop = min(start + _COLUMNS, len(left))
        errors = torch.empty_like(left[start:stop])
        for i in range(start, stop):
            numbers[i] = nearest(left[i], type(steps)(scale[i], zero[i])).masked_fill(held[i], 0)
            error = (left[i] - numbers[i] * scale[i]) / factor[i, i]
            left[i:stop] -= factor[i, i:stop, None] * error
            errors[i - start] = error
        left[stop:] -= factor[start:stop, stop:].t() @ errors
    return numbers[order.argsort()].t().contiguous()
