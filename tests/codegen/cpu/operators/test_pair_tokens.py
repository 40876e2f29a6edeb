from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import pair_tokens
from sparsecc.codegen.cpu.operators.pair_tokens import PairSpec
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target
from tests.codegen.cpu.kernels.running import HERE, NARROW, compiled

SPECS = {
    "one_tile": PairSpec(sequences=1, tokens=32, features=8, tile=32),
    "odd_tokens": PairSpec(sequences=1, tokens=45, features=3, tile=32),
    "several_sequences": PairSpec(sequences=3, tokens=33, features=5, tile=16),
    "one_token": PairSpec(sequences=2, tokens=1, features=1, tile=16),
}


def run(spec: PairSpec, x: np.ndarray, target: Target) -> np.ndarray:
    """The bfloat16 [tiles, features, tile], as float32."""
    y = tvm_api.tensor(np.full(spec.y_shape, 77, np.int32))
    compiled(pair_tokens.build(spec, target), target)(tvm_api.tensor(x), y)
    return y.numpy().view(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("target", [HERE, NARROW], ids=["here", "short_vectors"])
def test_tokens_are_rounded_and_padding_is_zero(spec: PairSpec, target: Target) -> None:
    """Whatever lies in the padding: a product of it with a weight of zero would be NaN."""
    x = np.random.default_rng(0).standard_normal((spec.tiles, spec.features, spec.tile), np.float32)
    tokens = np.arange(spec.tiles * spec.tile).reshape(spec.tiles, 1, spec.tile) % (spec.tiles // spec.sequences * spec.tile)
    x = np.where(tokens < spec.tokens, x, np.nan).astype(np.float32)
    got, expected = run(spec, x, target), groups.bfloat16(np.where(tokens < spec.tokens, x, 0).astype(np.float32))
    assert np.array_equal(got, expected)


def test_nan_stays() -> None:
    x = np.zeros((1, 2, 16), np.float32)
    x[0, 1, 3] = np.nan
    got = run(PairSpec(1, 16, 2, 16), x, HERE)
    assert np.array_equal(np.isnan(got), np.isnan(x))
