"""The product of codegen: one compiled specialization of a model, for fixed input shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsecc.codegen.target import Target
from sparsecc.graph.base import TensorSpec


@dataclass(frozen=True)
class KernelCall:
    """A call of one of our kernels in generated code, for the account of what takes how long.

    symbol: of the kernel in the code, which calls alike share.  site: whose layer is computed by it.  readers: sites for which it makes
    something of an input (narrow numbers, padded planes), once for all of them; it then belongs to no single one.
    """

    symbol: str
    site: str | None = None
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """executable: tvm's VM executable, whose `main(*inputs, *weights)` returns the outputs.
    weights: name → array as the kernels read them, in the order of main's parameters after the inputs.
    inputs, outputs: with fixed shapes.
    limits: of inputs that index tables, by name, as (least, end): a value i needs least ≤ i < end, else code reads some other entry.
    divisors: inputs that divide integers, by name: x / 0 is 0 in the code.
    regions: inputs whose rows begin with the number of an image, by name: how many images there are; others are the first in the code.
    calls: of our kernels, in the order of execution."""

    executable: Any
    weights: Mapping[str, np.ndarray]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: Target
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    divisors: frozenset[str] = frozenset()
    regions: Mapping[str, int] = field(default_factory=dict)
    calls: tuple[KernelCall, ...] = ()
