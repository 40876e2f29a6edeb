"""A weight matrix as kernels multiply it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Numbers:
    """matrix: [rows, depth], float32 or int8; bfloat16 as float32 whose values are bfloat16.  scales: float32 [rows] of int8, else None."""

    matrix: np.ndarray
    scales: np.ndarray | None = None
