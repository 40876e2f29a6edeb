"""Against numpy: one sequence and groups of them, both types of weights, both directions, a hidden size that does not fill the vectors."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen.cpu.operators import quantized_lstm, recurrent
from sparsecc.codegen.recurrent import RecurrentSpec, extra
from tests.codegen.cpu.kernels.running import HERE, call, compiled, random


def rounded(h: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Integers with the zero point taken off, and what one of them stands for."""
    low, high = min(h.min(), 0), max(h.max(), 0)
    scale = (high - low) / np.float32(255) if high > low else np.float32(1)
    zero = np.round(np.clip(-low / scale, 0, 255))
    return np.clip(np.round(h / scale) + zero, 0, 255) - zero, scale


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(("batch", "dtype", "reverse", "empty"), [(1, np.int8, False, True), (6, np.uint8, True, False)])
def test_it_rounds_the_state_of_all_sequences_together(batch: int, dtype: type, reverse: bool, empty: bool) -> None:
    steps, depth, rng = 4, 20, np.random.default_rng(0)
    spec = RecurrentSpec("LSTM", steps, batch, 32, depth, ("Sigmoid", "Tanh", "Tanh"), reverse, dtype=np.dtype(dtype).name)
    x = random(rng, steps, batch, spec.rows)
    weight = rng.integers(*(np.iinfo(dtype).min, np.iinfo(dtype).max + 1), (spec.rows, depth)).astype(dtype)
    h, c = (np.zeros((batch, 32), np.float32) if empty else random(rng, batch, 32) for _ in range(2))
    holes, scales = 0.1 * random(rng, 3, 32), rng.uniform(0.001, 0.004, spec.rows).astype(np.float32)
    zeros = rng.integers(100, 140, spec.rows) if dtype is np.uint8 else np.zeros(spec.rows, int)
    h[:, depth:], c[:, depth:], x.reshape(steps, batch, 4, 32)[..., depth:] = 0, 0, 0  # as importers pad
    arrays = [x, recurrent.prepare(spec, weight), h, c, extra(spec, holes, scales, zeros)]
    got = call(compiled(quantized_lstm.build(spec, HERE)), arrays, spec.out)[:, :, :depth]
    expected = np.empty((steps + 1, batch, 32), np.float32)
    for step in reversed(range(steps)) if reverse else range(steps):
        levels, scale = rounded(h[:, :depth])
        i, o, f, g = np.split(x[step] + levels @ (weight - zeros[:, None].astype(np.float32)).T * (scale * scales), 4, axis=1)
        c = sigmoid(f + holes[2] * c) * c + sigmoid(i + holes[0] * c) * np.tanh(g)
        h = expected[step] = sigmoid(o + holes[1] * c) * np.tanh(c)
    expected[steps] = c
    assert np.allclose(got, expected[:, :, :depth], atol=1e-5)
