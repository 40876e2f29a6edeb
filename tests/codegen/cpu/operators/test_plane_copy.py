"""Planes are filled as their specification says, whatever the padding, and nothing beside them is written."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import plane_copy
from sparsecc.codegen.cpu.operators.plane_copy import PlaneCopySpec
from tests.codegen.cpu.kernels.running import HERE, compiled

HEIGHT, WIDTH, ROWS, COLS = 5, 9, 4, 7
GUARD = 64  # elements before and after, so that the planes stay aligned


def _spec(top: int, left: int, phases: tuple[int, int], apart: int) -> PlaneCopySpec:
    size = HEIGHT * WIDTH * apart
    strides = (2 * size, size, WIDTH * apart, apart)
    return PlaneCopySpec(1, 2, HEIGHT, WIDTH, strides, 2 * size, ROWS, COLS, 128, top, left, phases)


def _expected(spec: PlaneCopySpec, x: np.ndarray) -> np.ndarray:
    """Pixel by pixel.  x: [channels, height, width]"""
    (sh, sw), y = spec.phases, np.zeros(spec.y_shape, np.float32)
    for channel, i, j, r, c in np.ndindex(spec.channels, sh, sw, spec.rows, spec.cols):
        line, column = r * sh + i - spec.top, c * sw + j - spec.left
        if 0 <= line < spec.height and 0 <= column < spec.width:
            y[0, channel, ((i * sw + j) * spec.rows + r) * spec.cols + c] = x[channel, line, column]
    return y


@pytest.mark.parametrize(("phases", "apart"), [((1, 1), 1), ((2, 2), 1), ((1, 1), 3)], ids=["rows", "strided", "columns apart"])
@pytest.mark.parametrize("corner", [(1, 2), (-1, -1), (-4, -9), (-9, -20), (30, 30)], ids=str)
def test_padding_of_either_sign_and_nothing_beside(corner: tuple[int, int], phases: tuple[int, int], apart: int) -> None:
    spec = _spec(*corner, phases, apart)
    x = np.random.default_rng(0).standard_normal((2, HEIGHT, WIDTH * apart), np.float32)
    room = tvm_api.tensor(np.full(2 * GUARD + 2 * spec.size, 7, np.float32))
    whole = np.from_dlpack(room)
    planes = whole[GUARD:-GUARD].reshape(spec.y_shape)
    compiled(plane_copy.build(spec, HERE))(tvm_api.tensor(x.reshape(-1)), tvm_api.from_dlpack(planes))
    assert np.array_equal(planes, _expected(spec, x[:, :, ::apart]))
    assert (whole[:GUARD] == 7).all()
    assert (whole[-GUARD:] == 7).all()
