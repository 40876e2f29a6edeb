"""int8 and bfloat16 kernels against float64 on the numbers that narrowing leaves."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import torch

from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.spec import MatmulSpec
from tests.codegen.cpu.kernels.running import HERE, built, call, expected, random
from tests.tolerance import assert_close

NARROW_TYPES = ("int8", "bfloat16")
PLAIN = replace(HERE, features=())  # a CPU with none of the instructions for groups
WIDENING = replace(HERE, features=tuple(f for f in HERE.features if "vnni" not in f and "bf16" not in f))


def narrowed(x: np.ndarray, dtype: str, scale: float | None) -> np.ndarray:
    """x [tiles, features, tile] as the nearest numbers of a format, with this scale or a scale and a zero point per token."""
    if dtype == "bfloat16":
        return torch.from_numpy(x).bfloat16().float().numpy()
    if scale is not None:
        return np.rint(x / np.float64(scale)) * scale
    low, high = (end.astype(np.float64) for end in (x.min(axis=1, keepdims=True).clip(max=0), x.max(axis=1, keepdims=True).clip(min=0)))
    steps = np.where(high > low, (high - low) / 252, 1)
    zeros = np.rint(-low / steps)
    return (np.rint(x / steps + zeros) - zeros) * steps


def narrow_weight(matrix: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """A matrix as kernels take it, and its scales."""
    if dtype == "bfloat16":
        return groups.bfloat16(matrix), None
    scales = np.maximum(np.abs(matrix).max(axis=1), 1e-6).astype(np.float32) / 127
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales


def check_group_matmul(kernel: ModuleType, spec: MatmulSpec, knobs: Knobs, matrix: np.ndarray, target: Target = HERE) -> None:
    """`kernel` computes what `spec` says for this matrix and writes nothing else."""
    rng = np.random.default_rng(1)
    x, residual, bias = random(rng, spec.batch, spec.channels, spec.channel_stride), random(rng, *spec.y_shape), random(rng, spec.rows)
    x[:, :, ::2] = np.abs(x[:, :, ::2])  # tokens with values on one side of zero, whose zero point is at an end
    weight, scales = narrow_weight(matrix, spec.dtype)
    prepared = kernel.prepare(weight, bias, spec, knobs, scales, target)
    padded_bias = next(a for a in reversed(prepared) if a.dtype == np.float32)
    scale = None if spec.taps == (0,) else float(np.abs(x).max()) / 127
    grouped, *of_tokens = groups.group_array(x, spec.dtype, target, scale)
    last = residual if spec.epilogue.residual else padded_bias
    arrays = [grouped, *(of_tokens or [padded_bias, padded_bias]), *prepared, last]
    got = call(built(kernel.build, spec, knobs, target), arrays, spec.y_shape)
    whole = weight * (1.0 if scales is None else scales.astype(np.float64)[:, None])
    written = np.ascontiguousarray(got[:, :, : spec.positions])
    assert_close(torch.from_numpy(written), expected(spec, narrowed(x, spec.dtype, scale), whole, bias, residual))
    assert np.isnan(got[:, :, spec.positions :]).all()
