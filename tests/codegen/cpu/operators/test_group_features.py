from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import group_features
from sparsecc.codegen.cpu.operators.group_tokens import GroupSpec
from sparsecc.codegen.cpu.pieces import groups
from tests.codegen.cpu.kernels.running import HERE, NARROW, compiled, random


def run(x: np.ndarray, target=HERE, scale: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Values [tokens, features], which zero is 0 of, and scales [tokens]."""
    spec = GroupSpec(len(x), x.shape[1], 1, "int8", scale is not None)
    outs = [tvm_api.tensor(np.full(shape, 77, dtype)) for shape, dtype in spec.outputs]
    compiled(group_features.build(spec, target), target)(
        tvm_api.tensor(x[:, :, None]), tvm_api.tensor(np.array([scale or np.nan], np.float32)), *outs
    )
    stored = outs[0].numpy().view(np.uint8).reshape(len(x), -1)
    assert (stored[:, x.shape[1] :] == 0).all()
    signed = (stored[:, : x.shape[1]].astype(np.int32) - groups.offset("int8", target)).astype(np.int8).astype(np.int32)
    return signed - (outs[2].numpy() - groups.offset("int8", target)), outs[1].numpy()[:, 0]


@pytest.mark.parametrize("features", [1, 3, 4, 16, 50, 4096])
@pytest.mark.parametrize("target", [HERE, NARROW], ids=["here", "short_vectors"])
def test_it_is_what_numpy_makes(features: int, target) -> None:
    x = random(np.random.default_rng(0), 4, features) * np.array([[0.01], [1], [30], [1]], np.float32)
    x[3] = -np.abs(x[3])
    found, scales = run(x, target)
    low, high = x.min(axis=1).clip(max=0), x.max(axis=1).clip(min=0)
    np.testing.assert_allclose(scales, (high - low) / 252, rtol=1e-6)
    zeros = np.rint(-low / scales)[:, None]
    wanted = np.rint(x / scales[:, None] + zeros) - zeros
    assert np.abs(found - wanted).max() <= 1  # ties: x · (126 / half) and x / (half / 126) differ in the last bit
    assert (found != wanted).mean() < 0.01
    assert found[3].min() == -252, "all numbers are for the side of zero on which the token is"


def test_tokens_without_a_value_and_tokens_of_zeros() -> None:
    x = random(np.random.default_rng(0), 8, 50)
    x[0, 49], x[1, 1], x[2, 1], x[3, 49] = np.nan, -np.float32(np.nan), np.inf, -np.inf
    x[4], x[5], x[6, :2] = 0, 1e-38, [3e38, -3e38]
    found, scales = run(x)
    assert np.isnan(scales[:2]).all()
    assert np.isinf(scales[2:4]).all()
    assert (scales[4:6] == 0).all() and (found[4:6] == 0).all()
    assert np.isfinite(scales[6:]).all()


def test_a_given_scale_clips_and_keeps_nan() -> None:
    x = np.array([[0.1, -0.25, 0.05, 100, -100], [0, 0, np.nan, 0, 0]], np.float32)
    found, scales = run(x, scale=0.1)
    assert found[0].tolist() == [1, -2, 0, 127, -127]  # ties to even
    assert np.isnan(scales[1])
    np.testing.assert_allclose(scales[0], 0.1, rtol=1e-6)


@pytest.mark.parametrize("features", [1, 2, 33, 512])
def test_bfloat16_is_what_numpy_makes(features: int) -> None:
    x = random(np.random.default_rng(0), 3, features, 1)
    x.flat[0] = np.nan
    spec = GroupSpec(3, features, 1, "bfloat16")
    y = tvm_api.tensor(np.full(spec.outputs[0][0], 77, np.int32))
    compiled(group_features.build(spec, HERE))(tvm_api.tensor(x), tvm_api.tensor(np.ones(1, np.float32)), y)
    stored = (y.numpy().view(np.uint16).reshape(3, -1).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(stored[:, :features], groups.bfloat16(x)[:, :, 0])
    assert (stored[:, features:] == 0).all()
