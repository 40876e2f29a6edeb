"""Geometry of a convolution as a matrix product over a padded plane: every tap is an offset, nothing is gathered (no im2col).

A plane holds the padded image row by row. Output pixel (y, x) is position y·cols + x, and input pixel of tap (i, j) lies at
position + offset(i, j). The cols - width positions at the end of a row are computed and cropped. A stride s splits the
plane into s×s phases, each a plane of its own, so that neighbouring outputs still read neighbouring inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsecc.codegen.recognize.program import Geometry
from sparsecc.codegen.spec import ceil_div

_LINE = 16  # float32 in a cache line
_SETS = 64  # of an L1 cache


@dataclass(frozen=True)
class Plane:
    """height, width: of the output.  rows, cols: of one phase of the padded input.  padding: top, left, bottom, right (negative crops).

    skip: every how many input pixels are read at all (a strided 1×1 kernel reads one phase only).
    positions: whole vectors.  size, pitch: elements that a channel of the input and of the output takes.
    """

    height: int
    width: int
    rows: int
    cols: int
    padding: tuple[int, int, int, int]
    phases: tuple[int, int]
    skip: tuple[int, int]
    taps: tuple[int, ...]
    positions: int
    size: int
    pitch: int


def plane_of(geometry: Geometry, image: tuple[int, ...], out: tuple[int, ...], lanes: int) -> Plane:
    (kh, kw), (dh, dw), (top, left, _, _) = geometry.kernel, geometry.dilation, geometry.padding
    stride, skip = geometry.stride, (1, 1)
    if geometry.pointwise and stride != (1, 1):
        stride, skip = (1, 1), stride
        image = tuple(-(-size // s) for size, s in zip(image, skip, strict=True))
    sh, sw = stride
    rows, cols = out[0] + dh * (kh - 1) // sh, out[1] + dw * (kw - 1) // sw
    bottom, right = rows * sh - image[0] - top, cols * sw - image[1] - left
    taps = tuple(_offset(i * dh, j * dw, sh, sw, rows, cols) for i in range(kh) for j in range(kw))
    positions = ceil_div((out[0] - 1) * cols + out[1], lanes) * lanes
    size, pitch = pitch_for(max(sh * sw * rows * cols, max(taps) + positions)), pitch_for(max(out[0] * cols, positions))
    if geometry.pointwise:
        size = pitch = compact_pitch(out[0] * out[1])
    return Plane(out[0], out[1], rows, cols, (top, left, bottom, right), (sh, sw), skip, taps, positions, size, pitch)


def compact_pitch(pixels: int) -> int:
    """Of channels whose rows lie one behind the other: none where they fill whole cache lines, as a tensor of images lies in that case."""
    return pixels if pixels % _LINE == 0 else pitch_for(pixels)


def pitch_for(elements: int) -> int:
    """Elements from one channel to the next: whole cache lines, so that a vector crosses none, and not so many that the same few
    pixels of all channels compete for a few sets of the L1."""
    lines = ceil_div(elements, _LINE)
    while math.gcd(lines, _SETS) > 4:
        lines += 1
    return lines * _LINE


def _offset(y: int, x: int, sh: int, sw: int, rows: int, cols: int) -> int:
    phase = (y % sh) * sw + x % sw
    return (phase * rows + y // sh) * cols + x // sw
