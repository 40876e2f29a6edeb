"""Sizes and factors whose ratio is rounded are those that TVM samples differently; all in one build."""

from __future__ import annotations

from functools import cache

import pytest
from torch import Tensor
from torch.nn import functional

from tests.codegen.whole import Case, compare, random
from tests.tolerance import assert_close

IMAGE = random(1, 2, 5, 7)


def case(**how: object) -> Case:
    return lambda x: functional.interpolate(x, **how), (IMAGE,)  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    "nearest, whole factor": case(mode="nearest", scale_factor=2),
    "nearest, two factors": case(mode="nearest", scale_factor=(3.0, 2.0)),
    "nearest, rounded factor": case(mode="nearest", scale_factor=1.7),
    "nearest, size": case(mode="nearest", size=(10, 14)),
    "nearest, odd size": case(mode="nearest", size=(9, 8)),
    "nearest, smaller": case(mode="nearest", size=(3, 5)),
    "bilinear, whole factor": case(mode="bilinear", scale_factor=2),
    "bilinear, rounded factor": case(mode="bilinear", scale_factor=1.5),
    "bilinear, ratio instead of rounded factor": case(mode="bilinear", scale_factor=1.5, recompute_scale_factor=True),
    "bilinear, smaller": case(mode="bilinear", scale_factor=0.6),
    "bilinear, odd size": case(mode="bilinear", size=(8, 11)),
    "bilinear, one pixel": case(mode="bilinear", size=(1, 1)),
    "bilinear, corners aligned": case(mode="bilinear", scale_factor=1.5, align_corners=True),
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(CASES)


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    for compiled, oracle in results()[name]:
        assert_close(compiled, oracle)
