from __future__ import annotations

import pytest

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.passes._device import on_device
from sparsecc.passes.prune import Prune
from sparsecc.passes.recover import Recover
from tests.laws.hosts import graph
from tests.passes.fake import FakeGraph, linear


def test_without_a_name_it_is_the_graph_itself() -> None:
    fake = FakeGraph([linear("a")])
    assert on_device(fake, None) is fake


@pytest.mark.parametrize("step", [Prune, Recover])
def test_what_is_no_device(step: type) -> None:
    with pytest.raises(RecipeError, match="device: 'gpu' is no device of torch; name one as cpu, cuda or cuda:1"):
        step(device="gpu")


def test_devices_that_cannot_be_used() -> None:
    with pytest.raises(RecipeError, match="device: onnx computes on the CPU alone"):
        Prune(device="cpu").apply(graph("onnx", "transformer"), Context())
    with pytest.raises(RecipeError, match="device: 'xpu:99' cannot be used: "):
        Prune(device="xpu:99").apply(graph("fx", "transformer"), Context())
