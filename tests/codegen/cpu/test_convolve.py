"""The geometry alone: planes filled and read by numpy as the docstring says, against torch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sparsecc.codegen.cpu.convolve import Plane, compact_pitch, pitch_for, plane_of
from sparsecc.codegen.importers.base import conv_output_shape
from sparsecc.codegen.recognize.program import Geometry
from tests.tolerance import assert_close

LANES = 16
sizes = st.integers(1, 4)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    paddings = st.integers(0, 4)
    return Geometry(draw(st.tuples(sizes, sizes)), draw(pairs), draw(st.tuples(paddings, paddings, paddings, paddings)), draw(pairs))


def filled(image: np.ndarray, plane: Plane) -> np.ndarray:
    """[channels, height, width] → [channels, plane.size]."""
    (top, left, bottom, right), (sh, sw) = plane.padding, plane.phases
    image = image[:, :: plane.skip[0], :: plane.skip[1]]
    image = image[:, : image.shape[1] + min(bottom, 0), : image.shape[2] + min(right, 0)]
    image = np.pad(image, ((0, 0), (top, max(bottom, 0)), (left, max(right, 0))))
    phases = image.reshape(len(image), plane.rows, sh, plane.cols, sw).transpose(0, 2, 4, 1, 3).reshape(len(image), -1)
    return np.pad(phases, ((0, 0), (0, plane.size - phases.shape[1])))


def convolved(image: np.ndarray, weight: np.ndarray, plane: Plane) -> np.ndarray:
    held = filled(image, plane)
    taps = weight.transpose(2, 3, 0, 1).reshape(-1, *weight.shape[:2])
    total = sum(tap @ held[:, offset : offset + plane.positions] for tap, offset in zip(taps, plane.taps, strict=True))
    assert isinstance(total, np.ndarray)
    rows = np.zeros((len(weight), plane.pitch), np.float32)
    rows[:, : plane.positions] = total
    return rows[:, : plane.height * plane.cols].reshape(len(weight), plane.height, plane.cols)[:, :, : plane.width]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(geometry=geometries(), image=st.tuples(st.integers(1, 11), st.integers(1, 11)), channels=st.integers(1, 3))
def test_against_torch(geometry: Geometry, image: tuple[int, int], channels: int) -> None:
    attributes = {name: getattr(geometry, name) for name in ("kernel", "stride", "padding", "dilation")}
    out = conv_output_shape([1, channels, *image], 2, attributes)
    assume(min(out) > 0)
    plane = plane_of(geometry, image, tuple(out[2:]), LANES)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((channels, *image), np.float32)
    weight = rng.standard_normal((2, channels, *geometry.kernel), np.float32)
    top, left, bottom, right = geometry.padding
    padded = functional.pad(torch.from_numpy(x)[None], (left, right, top, bottom))
    oracle = functional.conv2d(padded, torch.from_numpy(weight), stride=geometry.stride, dilation=geometry.dilation)[0]
    assert oracle.shape[1:] == tuple(out[2:])
    assert_close(torch.from_numpy(convolved(x, weight, plane)), oracle)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(geometry=geometries(), image=st.tuples(st.integers(1, 11), st.integers(1, 11)))
def test_what_the_kernels_rely_on(geometry: Geometry, image: tuple[int, int]) -> None:
    attributes = {name: getattr(geometry, name) for name in ("kernel", "stride", "padding", "dilation")}
    out = conv_output_shape([1, 1, *image], 1, attributes)[2:]
    assume(min(out) > 0)
    plane = plane_of(geometry, image, tuple(out), LANES)
    assert len(plane.taps) == geometry.kernel[0] * geometry.kernel[1]
    assert min(plane.taps) >= 0
    assert max(plane.taps) + plane.positions <= plane.size
    assert plane.positions % LANES == plane.size % LANES == plane.pitch % LANES == 0
    assert plane.positions <= plane.pitch
    assert plane.height * plane.cols <= plane.pitch
    assert plane.padding[0] >= 0
    assert plane.padding[1] >= 0


def test_a_strided_pointwise_kernel_reads_one_phase_only() -> None:
    plane = plane_of(Geometry((1, 1), (2, 2), (0, 0, 0, 0), (1, 1)), (9, 9), (5, 5), LANES)
    assert (plane.skip, plane.phases, plane.taps, plane.size) == ((2, 2), (1, 1), (0,), 32)


def test_neighbouring_outputs_read_neighbouring_inputs() -> None:
    """Taps of a row are one apart without a stride; a stride of two puts every other tap into another phase."""
    assert plane_of(Geometry((1, 3), (1, 1), (0, 1, 0, 1), (1, 1)), (4, 20), (4, 20), LANES).taps == (0, 1, 2)
    strided = plane_of(Geometry((1, 3), (1, 2), (0, 0, 0, 0), (1, 1)), (1, 41), (1, 20), LANES)
    assert (strided.taps, strided.cols) == ((0, 21, 1), 21)


def test_vectors_cross_no_cache_line_and_channels_do_not_compete_for_the_same_sets() -> None:
    assert pitch_for(49) == 64  # 4 lines: 16 channels before the same set comes again, each with a tile of 4 lines
    assert pitch_for(196) == 208
    assert pitch_for(256) == 272  # 16 lines would leave 4 places for all channels
    assert compact_pitch(256) == 256  # a tensor as it is
    assert compact_pitch(196) == pitch_for(196)
