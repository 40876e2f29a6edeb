"""The weight behind packed parts, by torch: what a kernel multiplies by, for machines without a GPU."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from sparsecc.codegen.cuda.blob import joined, separated
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.kernels import kernel_of


def dense(spec: LinearSpec, packed: Tensor) -> Tensor:
    """float32 [rows, depth]. packed: see `blob`."""
    kernel = kernel_of(spec.form)
    return values(kernel.unpack(separated(packed, kernel.parts(spec)), spec), spec.form)


def packed(spec: LinearSpec, weights: Weights) -> Tensor:
    """See `blob`."""
    kernel = kernel_of(spec.form)
    return joined(kernel.prepare(weights, spec), kernel.parts(spec))


def values(weights: Weights, form: str) -> Tensor:
    """float32 [rows, depth]: scale · (number - zero point), of each group of inputs its own; the last group may have fewer."""
    numbers = weights.numbers.float()
    if weights.scales is None:
        return numbers
    depth = numbers.shape[1]
    named = re.search(r" g(\d+)", form)
    group = int(named[1]) if named else depth

    def spread(tensor: Tensor) -> Tensor:
        return torch.repeat_interleave(tensor.float(), group, 1)[:, :depth]

    return (numbers if weights.zeros is None else numbers - spread(weights.zeros)) * spread(weights.scales)
