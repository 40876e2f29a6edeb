"""The product of codegen: one compiled specialization of a model, for fixed input shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsecc.codegen.target import Target
from sparsecc.graph.base import TensorSpec


@dataclass(frozen=True)
class Library:
    """executable: tvm's VM executable, whose `main(*inputs, *weights)` returns the outputs.
    weights: name → array as the kernels read them, in the order of main's parameters after the inputs.
    inputs, outputs: with fixed shapes; `main` may return fewer outputs than the model has, see `output_index`."""

    executable: Any
    weights: Mapping[str, np.ndarray]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    target: Target
    output_index: tuple[int, ...] | None = None  # the model's i-th output is main's output_index[i]-th; None: one to one
