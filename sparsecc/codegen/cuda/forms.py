"""How a layer's stored weight is read by kernels for GPUs: the form's name, and numbers, scales and zero points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sparsecc.codegen.cuda.kernel import Weights
from sparsecc.formats.base import Packed
from sparsecc.formats.nm import NMFormat
from sparsecc.graph.sites import WeightSite

TWO_OF_FOUR, ANY_ZEROS = "2:4", "sparse"


@dataclass(frozen=True)
class Refusal:
    """reason: reads after the layer's name."""

    reason: str


@dataclass(frozen=True)
class Stored:
    """form: see `LinearSpec`.  weights: made anew at each call, dense."""

    form: str
    weights: Callable[[], Weights]


def weights_of(site: WeightSite) -> Stored | Refusal:
    """What a kernel would multiply by."""
    if isinstance(site.stored, Packed):
        return Stored(_form(site.stored), lambda: Weights(_matrix(site)))
    return Refusal(f"there are no kernels for {site.word} weights on GPUs")


def _form(packed: Packed) -> str:
    if isinstance(packed.format, NMFormat):
        n, m = packed.format.pattern.n, packed.format.pattern.m
        if (m == 4 and n <= 2) or (m == 2 and n == 1):
            return TWO_OF_FOUR
    return ANY_ZEROS


def _matrix(site: WeightSite) -> Tensor:
    return site.matrix.detach()
