"""Largest errors over the whole range against float64, as the docstrings promise them; what infinities and NaN give."""

# pyright: reportInvalidTypeForm=false
# Buffers of TVMScript are calls where Python has types.

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import torch

from sparsecc.codegen.cpu.pieces import math
from sparsecc.codegen.tvm_api import T
from tests.codegen.cpu.kernels.running import ACTIVATIONS, HERE, call, compiled

ORACLE = {"exp": torch.exp, "erf": torch.erf, "sinh": torch.sinh, "cosh": torch.cosh, **ACTIVATIONS}
SMALLEST = float(np.finfo(np.float32).tiny)  # normal number


@cache
def function(name: str, size: int) -> Callable[..., None]:
    lanes, chunks, body = HERE.lanes, size // HERE.lanes, getattr(math, name)

    @T.prim_func
    def elementwise(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")):
        T.func_attr({"tirx.noalias": True})
        for chunk in range(chunks):
            for lane in T.vectorized(lanes):
                y[chunk * lanes + lane] = body(x[chunk * lanes + lane])

    return compiled(elementwise)


@cache
def everywhere() -> np.ndarray:
    """Floats of every exponent and sign, and closely spaced ones where the functions bend."""
    every = np.arange(0, 1 << 32, 1 << 14, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate([every, np.linspace(-100, 100, 1 << 18, dtype=np.float32), np.linspace(-6, 6, 1 << 17, dtype=np.float32)])
    x = x[np.isfinite(x) & ((x == 0) | (np.abs(x) >= SMALLEST))]
    return x[: len(x) // HERE.lanes * HERE.lanes]


def measured(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(result, oracle) in float64."""
    oracle = ORACLE[name](torch.from_numpy(x).double()).numpy()
    return call(function(name, len(x)), [x], x.shape).astype(np.float64), oracle


def at(name: str, *values: float) -> list[float]:
    x = np.resize(np.array(values, np.float32), HERE.lanes * 4)
    return call(function(name, len(x)), [x], x.shape)[: len(values)].tolist()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = everywhere()
    result, oracle = measured(name, x)
    inside = np.abs(x) < 1e38
    assert (np.abs(result - oracle)[inside] <= 3e-7 * np.maximum(1, np.abs(x[inside]))).all()


def test_exp() -> None:
    x = everywhere()
    result, oracle = measured("exp", x)
    inside = (x >= -86.9) & (x <= 88.72)
    assert (np.abs(result[inside] - oracle[inside]) <= 3e-7 * oracle[inside]).all()
    assert np.abs(result[x < -86.9] - oracle[x < -86.9]).max() < 2e-38
    assert np.isinf(result[x > 88.73]).all()
    assert at("exp", 0.0, float("inf"), float("-inf"), 1e30, -1e30) == [1.0, float("inf"), 0.0, float("inf"), 0.0]


@pytest.mark.parametrize(("coarse", "most"), [(False, 3e-7), (True, 8e-5)])
def test_exp2(coarse: bool, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """For scores less the largest one; the coarse one for what is rounded to bfloat16."""
    name = "exp2_coarse" if coarse else "exp2"
    monkeypatch.setattr(math, name, partial(math.exp2, coarse=coarse), raising=False)
    monkeypatch.setitem(ORACLE, name, torch.exp2)
    x = everywhere()
    x = x[(x <= 127) & (x > -1e30)]
    x = x[: len(x) // HERE.lanes * HERE.lanes]
    result, oracle = measured(name, x)
    inside = x >= -126
    assert (np.abs(result[inside] - oracle[inside]) <= most * oracle[inside]).all()
    assert (result[x < -126.5] == 0).all()
    assert at(name, float("-inf"), -1e38) == [0.0, 0.0]
    assert np.isnan(at(name, float("nan"))).all()


def test_tanh() -> None:
    result, oracle = measured("tanh", everywhere())
    error = np.abs(result - oracle)
    assert error.max() <= 3e-7
    assert (error <= 3e-6 * np.abs(oracle)).all()


@pytest.mark.parametrize("name", ["sinh", "cosh"])
def test_sinh_and_cosh(name: str) -> None:
    x = everywhere()
    result, oracle = measured(name, x)
    inside = np.abs(x) <= 88
    assert (np.abs(result[inside] - oracle[inside]) <= 1e-6 * np.abs(oracle[inside])).all()


def test_erf() -> None:
    result, oracle = measured("erf", everywhere())
    assert np.abs(result - oracle).max() <= 5e-7
    assert at("erf", 0.0, 1e30, float("inf"), float("-inf")) == [0.0, 1.0, 1.0, -1.0]


@pytest.mark.parametrize("name", ORACLE)
def test_nan_stays(name: str) -> None:
    assert np.isnan(at(name, float("nan"))[0])


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "hardsigmoid", "hardswish", "relu6"])
def test_far_out(name: str) -> None:
    """Saturated where the function is, proportional to x where it is not."""
    x = [-1e30, -1e5, -100.0, 100.0, 1e5, 1e30]
    oracle = ORACLE[name](torch.tensor(x)).tolist()
    assert at(name, *x) == pytest.approx(oracle, rel=1e-6, abs=1e-30)
