"""Against numpy, groups of several sequences and single ones. All cells with all their options: tests/codegen/importers."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen.cpu.operators import recurrent
from sparsecc.codegen.recurrent import RecurrentSpec
from tests.codegen.cpu.kernels.running import HERE, call, compiled, random


@pytest.mark.parametrize("batch", [1, 6, 8])
def test_a_plain_layer(batch: int) -> None:
    spec = RecurrentSpec("RNN", 4, batch, 32, 20, ("Tanh",), reverse=batch == 6)
    rng = np.random.default_rng(0)
    x, start = random(rng, 4, batch, 32), random(rng, batch, 32)
    weight = 0.3 * random(rng, 32, 20)
    empty = np.zeros((3, 32), np.float32)
    got = call(compiled(recurrent.build(spec, HERE)), [x, recurrent.prepare(spec, weight), start, start, empty], spec.out)
    state, expected = start, np.empty_like(x)
    for step in reversed(range(4)) if spec.reverse else range(4):
        state = expected[step] = np.tanh(x[step] + state[:, :20] @ weight.T)
    assert np.allclose(got, expected, atol=1e-5)


def test_groups_and_blocks_divide() -> None:
    for batch, hidden, found in ((1, 64, (1, 64)), (2, 64, (2, 32)), (8, 64, (4, 16)), (3, 48, (1, 48)), (1, 80, (1, 16))):
        spec = RecurrentSpec("LSTM", 1, batch, hidden, hidden, ("Sigmoid", "Tanh", "Tanh"))
        assert (spec.group, spec.width) == found
        assert hidden % spec.width == 0
