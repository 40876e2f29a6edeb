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
    """The narrow numbers [tiles, features, tile]; int8 with zero points not taken off."""
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
    wanted, *of_tokens = groups.group_array(x, dtype, target)
    got, want = values(found[0], features, dtype, target), values(wanted, features, dtype, target)
    if not of_tokens:
        assert np.array_equal(got, want)
        return
    scales, zeros = of_tokens
    np.testing.assert_allclose(found[1], scales, rtol=1e-6)
    assert np.abs(found[2] - zeros).max() <= 1  # ties: x · (126 / half) and x / (half / 126) differ in the last bit
    assert np.abs(got - want).max() <= 1
    assert (got != want).mean() < 0.01
    np.testing.assert_allclose(numbers(found, features, target) * found[1][:, None], x, atol=float(scales.max()) * 0.51)


def numbers(found: list[np.ndarray], features: int, target=HERE) -> np.ndarray:
    """int8 values [tiles, features, tile], which zero is 0 of."""
    return values(found[0], features, "int8", target) - (found[2] - groups.offset("int8", target))[:, None]


def test_all_numbers_are_for_the_side_of_zero_on_which_a_token_is() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal((1, 40, 32), np.float32))
    x[0, :, 16:] *= -1
    x[0, 5] = 0
    found = run(GroupSpec(1, 40, 32, "int8"), x)
    got = numbers(found, 40)
    np.testing.assert_allclose(found[1], np.abs(x).max(axis=1) / 252, rtol=1e-6)
    assert (np.abs(got).max(axis=1) == 252).all()
    assert (got[0, 5] == 0).all(), "zero stays zero"
    np.testing.assert_allclose(got * found[1][:, None], x, atol=float(found[1].max()) * 0.501)


@pytest.mark.parametrize("target", [HERE, PLAIN, NARROW], ids=["here", "plain", "short_vectors"])
def test_no_end_of_a_token_leaves_its_byte(target) -> None:
    """Where both ends are half a step from a number, and one bit to either side of that."""
    steps = np.arange(0.5, 252).astype(np.float32)
    ends = np.stack([-steps, 252 - steps]) * np.float32(0.37)
    near = np.concatenate([ends, np.nextafter(ends, np.float32(-1e9)), np.nextafter(ends, np.float32(1e9))], axis=1)
    x = np.resize(near.T, (768, 2)).T[None]
    found = run(GroupSpec(1, 2, 768, "int8"), np.ascontiguousarray(x), target)
    np.testing.assert_allclose(numbers(found, 2, target) * found[1][:, None], x, atol=0.37 * 0.501)


def test_tokens_without_a_value_and_tokens_of_zeros() -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 16), np.float32)
    x[0, 2, 3], x[0, 2, 4], x[0, 1, 5], x[0, 1, 6], x[0, :2, 7] = np.nan, -np.float32(np.nan), np.inf, -np.inf, [np.inf, -np.inf]
    x[0, :, 8], x[0, :, 9], x[0, :2, 10] = 0, 1e-38, [3e38, -3e38]
    found = run(GroupSpec(1, 6, 16, "int8"), x)
    scales = found[1]
    assert np.isnan(scales[0, 3:5]).all()
    assert np.isinf(scales[0, 5:8]).all()
    assert (scales[0, 8:10] == 0).all()
    assert np.isfinite(np.delete(scales[0], slice(3, 8))).all()
    assert (numbers(found, 6)[0, :, 8:10] == 0).all()


def test_a_given_scale_clips_and_keeps_nan() -> None:
    x = np.array([[[0.1, -0.25, 0.05, 100, -100, np.nan, *np.zeros(10)]]], np.float32)
    grouped, scales, zeros = run(GroupSpec(1, 1, 16, "int8", calibrated=True), x, scale=0.1)
    assert (zeros == groups.offset("int8", HERE)).all()
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
