"""The weight behind packed parts, by torch: what a kernel multiplies by, for machines without a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.codegen.cuda.blob import joined, separated
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.kernels import kernel_of


def dense(spec: LinearSpec, packed: Tensor) -> Tensor:
    """float32 [rows, depth]. packed: see `blob`."""
    kernel = kernel_of(spec.form)
    return values(kernel.unpack(separated(packed, kernel.parts(spec)), spec))


def packed(spec: LinearSpec, weights: Weights) -> Tensor:
    """See `blob`."""
    kernel = kernel_of(spec.form)
    return joined(kernel.prepare(weights, spec), kernel.parts(spec))


def values(weights: Weights) -> Tensor:
    """float32 [rows, depth]: scale · (number - zero point), of each group of inputs its own."""
    numbers = weights.numbers.float()
    if weights.scales is None:
        return numbers
    depth = numbers.shape[1]
    group = -(-depth // weights.scales.shape[1])

    def spread(tensor: Tensor) -> Tensor:
        return torch.repeat_interleave(tensor.float(), group, 1)[:, :depth]

    return (numbers if weights.zeros is None else numbers - spread(weights.zeros)) * spread(weights.scales)
