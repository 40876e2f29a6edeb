from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import group_tokens
from sparsecc.codegen.cpu.operators.group_tokens import GroupSpec
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import parse
from tests.codegen.cpu.kernels.narrow import NARROW_TYPES, PLAIN
from tests.codegen.cpu.kernels.running import HERE, NARROW, assembly, compiled


def run(spec: GroupSpec, x: np.ndarray, target=HERE, scale: float = np.nan) -> list[np.ndarray]:
    outs = [tvm_api.tensor(np.full(shape, 77, dtype)) for shape, dtype in spec.outputs]
    compiled(group_tokens.build(spec, target), target)(tvm_api.tensor(x), tvm_api.tensor(np.array([scale], np.float32)), *outs)
    return [out.numpy() for out in outs]


def values(grouped: np.ndarray, features: int, dtype: str, target=HERE) -> np.ndarray:
    """The narrow numbers [tiles, features, tile]."""
    kind = {"int8": np.uint8, "bfloat16": np.uint16}[dtype]
    parts = np.ascontiguousarray(grouped)[..., None].view(kind)
    flat = parts.transpose(0, 1, 3, 2).reshape(len(grouped), -1, grouped.shape[2])[:, :features]
    if dtype == "bfloat16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    return (flat.astype(np.int32) - groups.offset("int8", target)).astype(np.int8).astype(np.float32)


@pytest.mark.parametrize("dtype", NARROW_TYPES)
@pytest.mark.parametrize("features", [1, 3, 4, 50])
@pytest.mark.parametrize("target", [HERE, NARROW], ids=["here", "short_vectors"])
def test_it_is_what_numpy_makes(dtype: str, features: int, target) -> None:
    x = np.random.default_rng(0).standard_normal((2, features, 32), np.float32) * np.linspace(0.01, 30, 32, dtype=np.float32)
    found = run(GroupSpec(2, features, 32, dtype), x, target)
    wanted, scales = groups.group_array(x, dtype, target)
    got, want = values(found[0], features, dtype, target), values(wanted, features, dtype, target)
    if scales is None:
        assert np.array_equal(got, want)
        return
    np.testing.assert_allclose(found[1], scales, rtol=1e-6)
    assert np.abs(got - want).max() <= 1  # ties: x · (127 / top) and x / (top / 127) differ in the last bit
    assert (got != want).mean() < 0.01
    np.testing.assert_allclose(got * found[1][:, None], x, atol=float(scales.max()) * 0.51)


def test_tokens_without_a_value_and_tokens_of_zeros() -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 16), np.float32)
    x[0, 2, 3], x[0, 1, 4], x[0, :, 5], x[0, :, 6] = np.nan, np.inf, 0, 1e-38
    _, scales = run(GroupSpec(1, 6, 16, "int8"), x)
    assert np.isnan(scales[0, 3])
    assert np.isinf(scales[0, 4])
    assert (scales[0, 5:7] == 0).all()
    assert np.isfinite(np.delete(scales[0], [3, 4])).all()


def test_a_given_scale_clips_and_keeps_nan() -> None:
    x = np.array([[[0.1, -0.25, 0.05, 100, -100, np.nan, *np.zeros(10)]]], np.float32)
    grouped, scales = run(GroupSpec(1, 1, 16, "int8", calibrated=True), x, scale=0.1)
    assert values(grouped, 1, "int8")[0, 0, :5].tolist() == [1, -2, 0, 127, -127]  # ties to even
    assert np.isnan(scales[0, 5])
    np.testing.assert_allclose(np.delete(scales[0], 5), 0.1, rtol=1e-6)


def test_bfloat16_keeps_nan_and_infinity() -> None:
    x = np.array([[[np.nan, np.inf, -np.inf, 3.4e38, 1.00390625, *np.zeros(11)]]], np.float32)
    [grouped] = run(GroupSpec(1, 1, 16, "bfloat16"), x)
    got = values(grouped, 1, "bfloat16")[0, 0, :5]
    want = torch.from_numpy(x[0, 0, :5]).bfloat16().float().numpy()
    assert np.array_equal(got, want, equal_nan=True)


def test_signed_where_the_cpu_multiplies_signed_bytes() -> None:
    arm = parse("cpu:cortex-a76", 2)
    assert groups.offset("int8", arm) == 0
    assert groups.offset("int8", PLAIN) == 128
    assert groups.offset("bfloat16", HERE) == 0


@pytest.mark.parametrize("dtype", NARROW_TYPES)
def test_it_vectorizes(dtype: str) -> None:
    skylake = parse("cpu:skylake-avx512", 2)
    text = assembly(group_tokens.build(GroupSpec(2, 768, 64, dtype), skylake), skylake)
    shifts = [line for line in text.splitlines() if "vpslld" in line or "vpsrld" in line]
    assert any("%zmm" in line for line in shifts)
