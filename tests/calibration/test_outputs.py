from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sparsecc.calibration.outputs import Outputs, spread
from sparsecc.errors import UserError
from tests.passes.fake import FakeGraph, linear

SAMPLES = [(torch.randn(3, 64, generator=torch.Generator().manual_seed(seed)),) for seed in range(2)]


def test_the_error_is_relative_and_the_mean_over_the_outputs() -> None:
    first, second = linear("a"), linear("b", seed=1)
    outputs = Outputs(FakeGraph([first, second]), SAMPLES)
    assert outputs.error(FakeGraph([first, second])) == 0
    assert outputs.error(FakeGraph([replace(first, stored=0.9 * first.weight), second])) == pytest.approx(0.01 / 2, rel=1e-5)
    assert outputs.error(FakeGraph([replace(first, stored=0.9 * first.weight), linear("b", seed=1, stored=0 * second.weight)])) == (
        pytest.approx((0.01 + 1) / 2, rel=1e-5)
    )
    assert outputs.error(FakeGraph([replace(first, stored=first.weight * torch.inf), second])) == math.inf


def test_outputs_that_tell_nothing() -> None:
    nothing = FakeGraph([linear("a", stored=torch.zeros(4, 64))])
    with pytest.raises(UserError, match="hold no numbers but zeros"):
        Outputs(nothing, SAMPLES).error(nothing)


def test_samples_are_taken_from_everywhere() -> None:
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2]
