from __future__ import annotations

from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.spec import ACTIVATIONS, Epilogue, MatmulSpec, ceil_div


def test_kernels_know_every_activation() -> None:
    assert set(math.ACTIVATIONS) == ACTIVATIONS


def test_shapes_and_work() -> None:
    spec = MatmulSpec(rows=8, channels=3, batch=2, positions=20, channel_stride=30, y_pitch=25, taps=(0, 1, 10))
    assert (spec.depth, spec.x_shape, spec.y_shape) == (9, (2, 3, 30), (2, 8, 25))
    assert spec.flops == 2 * 8 * 9 * 2 * 20
    linear = MatmulSpec.linear(8, 5, 3, 64)
    assert (linear.x_shape, linear.y_shape, linear.taps) == ((3, 5, 64), (3, 8, 64), (0,))
    assert ceil_div(7, 3) == 3


def test_an_epilogue_says_its_order() -> None:
    assert str(Epilogue()) == "none"
    assert str(Epilogue("gelu", residual=True)) == "gelu+residual"
    assert str(Epilogue("relu", residual=True, residual_first=True)) == "residual+relu"
