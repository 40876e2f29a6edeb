from __future__ import annotations

import pytest
import torch

from sparsecc.train.gmp import Gmp
from tests.train.problem import adam, attached, batches, step, student, weight_of


def test_the_cubic_schedule_and_monotone_masks() -> None:
    model = student()
    optimizer = adam(model)
    _, handle = attached("gmp", model, optimizer, steps=60, begin=10, end=50, every=10, sparsity=0.8)
    found, gone = {}, None
    for x, y in batches(60):
        step(model, optimizer, x, y)
        now = ~handle.state_dict()["masks"]["0"]
        assert gone is None or not (gone & ~now).any()
        found[handle.step], gone = handle.layers[0].sparsity, now
    expected = {at: 0.8 * (1 - (1 - (at - 10) / 40) ** 3) for at in (10, 20, 30, 40, 50)}
    assert [found[at] for at in expected] == pytest.approx(list(expected.values()), abs=1 / 1000)
    assert found[15] == 0
    assert found[29] == found[20]
    assert found[60] == found[50] == pytest.approx(float((weight_of(model) == 0).float().mean()))


def test_nothing_is_masked_at_first() -> None:
    model, handle = attached("gmp", sparsity=0.8)
    assert [layer.sparsity for layer in handle.layers] == [0, 0]
    assert torch.equal(weight_of(model), weight_of(student()))
    assert not Gmp(steps=40).needs_gradient
