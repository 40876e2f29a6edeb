"""A weight matrix as kernels multiply it."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

SIZE = {"float32": 1, "bfloat16": 2, "int8": 4}  # numbers in 32 bits


@dataclass(frozen=True, eq=False)
class Numbers:
    """matrix: [rows, depth], float32 or int8; bfloat16 as float32 whose values are bfloat16.  scales: float32 [rows] of int8, else None."""

    matrix: np.ndarray
    scales: np.ndarray | None = None


def bfloat16(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 values, ties to even, as float32. x: finite."""
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)
