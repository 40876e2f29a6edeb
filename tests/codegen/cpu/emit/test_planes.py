"""Whatever reads the planes of a convolution finds its pixels there, at sizes that fill no vector, row or cache line."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsecc.codegen.cpu.operators import plane_copy
from sparsecc.codegen.cpu.operators.plane_copy import PlaneCopySpec
from tests.codegen.cpu.kernels.running import HERE, assembly
from tests.codegen.whole import Case, against_torch, random

POINTWISE, WIDE, STRIDED = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)
NEXT, DEPTHWISE, DILATED = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 2, padding=1, dilation=2)
UP = nn.ConvTranspose2d(8, 4, 2, 2)
READERS = {
    "1x1": NEXT,
    "1x1 and what it reads": lambda y: NEXT(y).relu() + y,
    "strided 1x1": nn.Conv2d(8, 4, 1, 2),
    "dilated": DILATED,
    "depthwise": DEPTHWISE,
    "depthwise and what it reads": lambda y: DEPTHWISE(y) + y,
    "max pool": nn.MaxPool2d(3, 2, 1),
    "mean": lambda y: y.mean((2, 3)),
    "transposed": UP,
    "transposed and back": lambda y: WIDE(UP(y)),
    "resized": lambda y: functional.interpolate(y, scale_factor=2, mode="nearest"),
    "gate": lambda y: y * NEXT(y.mean((2, 3), keepdim=True)).sigmoid(),
    "joined": lambda y: torch.cat([y, NEXT(y)], 1),
    "tokens": lambda y: y.flatten(2).transpose(1, 2).softmax(-1),
    "channels last": lambda y: NEXT(y.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2)),
}


SIZES = (5, 5), (9, 13), (8, 16)
WRITERS = {"1x1": POINTWISE, "3x3": WIDE, "strided": STRIDED}


def written_and_read() -> dict[str, Case]:
    """Each reader after each writer and at each size, in three cases instead of nine: planes have the margins that writer and reader
    ask for, and their rows the length that the size asks for; neither looks at the other.
    """

    def then(writer: nn.Module, reader):
        return lambda x: reader(writer(x).relu())

    cases: dict[str, Case] = {}
    for i, (name, reader) in enumerate(READERS.items()):
        for j, (by, writer) in enumerate(WRITERS.items()):
            size = SIZES[(i + j) % len(SIZES)]
            cases[f"{name} of {by} at {size}"] = (then(writer, reader), (random(2, 4, *size),))
    return cases


test_every_reader_of_every_writer = against_torch(written_and_read())


@pytest.mark.parametrize("patch", [4, 16])
def test_code_does_not_grow_with_the_phases_of_a_stride(patch: int) -> None:
    """A patch of 16 × 16 has 256, with which LLVM was busy for minutes."""
    side = 3 * patch
    spec = PlaneCopySpec(1, 3, side, side, (3 * side**2, side**2, side, 1), 3 * side**2, 3, 3, side**2, phases=(patch, patch))
    assert len(assembly(plane_copy.build(spec, HERE), HERE).splitlines()) < 4000


def odd_ones() -> dict[str, Case]:
    """Patches; images that were transposed, as decoders give them, channels last; convolutions of [batch, channels, length];
    and transposed ones whose pixels overlap, are cropped, or leave gaps.
    """
    line, wide, strided, alone = nn.Conv1d(4, 8, 1), nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(4, 8, 5, 2, dilation=2), nn.Conv1d(8, 4, 1)
    per_channel, uneven = nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.Conv1d(4, 8, 4, padding="same")
    up_line, up, gaps = nn.ConvTranspose1d(4, 6, 8, 4, 2), nn.ConvTranspose2d(4, 6, 4, 2, 1), nn.ConvTranspose1d(4, 6, 2, 3, 1, 2)
    odd, cropped = nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), nn.ConvTranspose2d(4, 6, 5, 2, 4)
    flipped = nn.ConvTranspose2d(4, 6, (3, 5), (1, 2), (2, 4))
    inner = nn.ConvTranspose1d(4, 6, 2, padding=2)
    narrow, last = random(2, 4, 21), random(2, 7, 9, 4)
    return {
        "patches": (nn.Conv2d(3, 8, 16, 16, padding=1), (random(2, 3, 62, 47),)),
        "3x3 of channels last": (lambda x: WIDE(x.permute(0, 3, 1, 2)), (last,)),
        "1x1 of channels last": (lambda x: POINTWISE(x.permute(0, 3, 1, 2)), (last,)),
        "pool of channels last": (lambda x: functional.max_pool2d(x.permute(0, 3, 1, 2), 2), (last,)),
        "1, then strided": (lambda x: alone(strided(wide(x)[:, :4])).relu() + 1, (narrow,)),
        "1 and what it reads": (lambda x: line(x).relu() + wide(x), (narrow,)),
        "per channel": (lambda x: per_channel(line(x)), (narrow,)),
        "uneven": (uneven, (narrow,)),
        "one pixel": (line, (random(2, 4, 1),)),
        "tokens": (lambda x: wide(x.transpose(1, 2)).transpose(1, 2).softmax(-1), (random(2, 21, 4),)),
        "up a line": (lambda x: up_line(x).tanh(), (narrow,)),
        "gaps": (gaps, (random(1, 4, 5),)),
        "up": (lambda x: POINTWISE(up(x).relu()[:, :4]), (random(2, 4, 7, 5),)),
        "odd": (odd, (random(1, 4, 7, 5),)),
        "cropped": (cropped, (random(1, 4, 7, 5),)),
        "padded by more than the kernel": (inner, (narrow,)),
        "not strided along one axis": (flipped, (random(1, 4, 7, 5),)),
    }


test_patches_lines_and_results_of_several_phases = against_torch(odd_ones())
