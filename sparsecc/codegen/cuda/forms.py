"""How a layer's stored weight is read by kernels for GPUs: the form's name, and numbers, scales and zero points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsecc.codegen.cuda.kernel import Weights
from sparsecc.formats.base import Format, Packed
from sparsecc.formats.nm import NMFormat
from sparsecc.graph.sites import WeightSite
from sparsecc.precisions._groups import InGroups
from sparsecc.precisions.base import ROW, Quantized

TWO_OF_FOUR, ANY_ZEROS = "2:4", "sparse"


@dataclass(frozen=True)
class Refusal:
    """reason: reads after the layer's name."""

    reason: str


@dataclass(frozen=True)
class Stored:
    """form: see `LinearSpec`.  weights: made anew at each call, dense, with scales that are numbers of the type it is given."""

    form: str
    weights: Callable[[torch.dtype], Weights]


def weights_of(site: WeightSite) -> Stored | Refusal:
    """What a kernel would multiply by."""
    if isinstance(site.stored, Packed):
        return Stored(_form(site.stored.format), lambda _: Weights(_matrix(site)))
    if isinstance(site.stored, Quantized):
        return _quantized(site, site.stored)
    return Refusal(f"there are no kernels for {site.word} weights on GPUs")


def _quantized(site: WeightSite, stored: Quantized) -> Stored | Refusal:
    """2:4 int4 g128 zeros: zeros in groups of four, 4-bit integers, a scale and a zero point for 128 inputs. int8: a scale for a row."""
    precision, format = stored.scheme.precision, stored.scheme.format
    if not isinstance(precision, InGroups):
        return Refusal(
            f"kernels for GPUs multiply by integers in groups, this weight is {precision.key}: quantize to int4 or int8_weight_only"
        )
    zeros = "" if format is None else _form(format)
    if zeros == ANY_ZEROS:
        return Refusal(f"kernels for GPUs multiply by integers that are dense or 2:4, this weight is stored as {stored.key}")
    group = "" if precision.group == ROW else f"g{precision.group}"
    points = "" if precision.symmetric else "zeros"
    form = " ".join(filter(None, (zeros, f"int{precision.value_bits}", group, points)))

    def weights(dtype: torch.dtype) -> Weights:
        found = stored.integers(site.name)
        assert found is not None  # integers in groups are
        return Weights(found.numbers, found.scales.to(dtype).float(), None if precision.symmetric else found.zeros)

    return Stored(form, weights)


def _form(format: Format[Any]) -> str:
    if isinstance(format, NMFormat):
        n, m = format.pattern.n, format.pattern.m
        if (m == 4 and n <= 2) or (m == 2 and n == 1):
            return TWO_OF_FOUR
    return ANY_ZEROS


def _matrix(site: WeightSite) -> Tensor:
    return site.matrix.detach()
