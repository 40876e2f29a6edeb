"""How far an output may be from the oracle's, by dtype: the only place. A test may ask for less, never for more."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE = {  # of the largest magnitude in the oracle's output
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
}


def assert_close(actual: Tensor, oracle: Tensor, *, at_most: float | None = None) -> None:
    """Same shape, dtype and, within the table, values. at_most: a tighter bound than the table's."""
    assert actual.shape == oracle.shape
    assert actual.dtype == oracle.dtype
    if not oracle.is_floating_point():
        assert torch.equal(actual, oracle)
        return
    bound = RELATIVE[oracle.dtype]
    assert at_most is None or at_most <= bound, "a test may only tighten the table"
    bound = bound if at_most is None else at_most
    error, scale = (actual - oracle).abs().max().item(), oracle.abs().max().item()
    assert error <= bound * max(scale, 1e-6), f"off by {error:.3g} at a scale of {scale:.3g}, {bound:g} relative is allowed"
