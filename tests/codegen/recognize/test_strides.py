"""What a stride above never reads is not computed, and what is read stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.codegen.recognize.program import Program, Subsampled
from tests.codegen.recognize.recognizing import layers, recognized
from tests.codegen.whole import Case, against_torch, random


class Bottleneck(nn.Module):
    """Of a ResNet: 1×1, 3×3, 1×1 and a shortcut."""

    def __init__(self, inputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, 4, 1, stride), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 16, 1)
        self.shortcut = nn.Conv2d(inputs, 16, 1, stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu()).relu()
        return (self.shortcut(x) + self.third(y)).relu()


RESNET = nn.Sequential(Bottleneck(8, 1, True), Bottleneck(16, 1, False), Bottleneck(16, 2, True), Bottleneck(16, 1, False))
POINTWISE, STRIDED, OTHER = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 1, 3)
KERNELS = {
    "3x3": nn.Conv2d(8, 8, 3, padding=1),
    "strided_and_dilated": nn.Conv2d(8, 8, (3, 2), (1, 2), padding=(2, 1), dilation=(2, 1)),
    "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "1x1": POINTWISE,
}


def strides(program: Program) -> list[tuple[int, int]]:
    return [layer.geometry.stride for layer in layers(program) if layer.geometry is not None]


def subsampled(program: Program) -> int:
    return sum(isinstance(node.what, Subsampled) for node in program.nodes)


SIZES = (10, 13), (2, 2), (31, 16)


@pytest.mark.parametrize("size", SIZES)
def test_resnet(size: tuple[int, int]) -> None:
    """The last block of a stage computes what the next stage reads: from its 3×3 convolution on, and of its shortcut."""
    program = recognized(RESNET, random(1, 8, *size))
    assert strides(program).count((2, 2)) == 1
    assert [layer.geometry.stride for layer in layers(program) if layer.geometry and layer.geometry.kernel == (3, 3)][1] == (2, 2)
    assert subsampled(program) == 1


def then_strided(name: str) -> nn.Module:
    return nn.Sequential(KERNELS[name], nn.ReLU(), STRIDED)


@pytest.mark.parametrize("name", KERNELS)
def test_every_convolution_takes_the_stride_of_the_next(name: str) -> None:
    own = KERNELS[name].stride
    assert strides(recognized(then_strided(name), random(1, 8, 9, 12))) == [(own[0] * 2, own[1] * 2), (1, 1)]


SEVERAL = nn.Sequential(KERNELS["3x3"], STRIDED, nn.ReLU(), OTHER)


def test_strides_add_up_over_several() -> None:
    assert strides(recognized(SEVERAL, random(1, 8, 20, 25))) == [(6, 6), (1, 1), (1, 1)]


READERS = {
    "two strides": lambda y: (STRIDED(y), OTHER(y)),
    "an output": lambda y: (STRIDED(y), y),
    "read otherwise": lambda y: (STRIDED(y), y.sum()),
    "read as a residual": lambda y: STRIDED(y) + y[:, :, :5, :5],
    "several taps": lambda y: KERNELS["strided_and_dilated"](y),
}


def read_by(name: str) -> Callable[[Tensor], Any]:
    return lambda x: READERS[name](POINTWISE(x).relu())


@pytest.mark.parametrize("reader", READERS)
def test_what_is_read_otherwise_stays_whole(reader: str) -> None:
    assert strides(recognized(read_by(reader), random(1, 8, 9, 9)))[0] == (1, 1)


def residual(x: Tensor, y: Tensor) -> Tensor:
    return STRIDED(torch.relu(POINTWISE(x) + y))


INPUTS = random(1, 8, 7, 8), random(1, 8, 7, 8, seed=1)


def test_a_residual_that_is_an_input() -> None:
    assert subsampled(recognized(residual, *INPUTS)) == 1


CASES: dict[str, Case] = {
    **{f"resnet {size}": (RESNET, (random(2, 8, *size),)) for size in SIZES},
    **{f"{name}, strided": (then_strided(name), (random(1, 8, 9, 12),)) for name in KERNELS},
    "several": (SEVERAL, (random(1, 8, 20, 25),)),
    **{name: (read_by(name), (random(1, 8, 9, 9),)) for name in READERS},
    "a residual": (residual, INPUTS),
}

test_against_torch = against_torch(CASES)
