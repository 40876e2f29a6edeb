from __future__ import annotations

import numpy as np
import pytest

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu.operators import turn_tokens
from sparsecc.codegen.cpu.operators.turn_tokens import TurnSpec
from tests.codegen.cpu.kernels.running import HERE, NARROW, compiled


def run(x: np.ndarray, spec: TurnSpec, target=HERE) -> np.ndarray:
    y = tvm_api.tensor(np.full(spec.shapes[1], 77, spec.dtype))
    compiled(turn_tokens.build(spec, target), target)(tvm_api.tensor(x), y)
    return y.numpy()


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("tokens", [1, 3, 8])
@pytest.mark.parametrize("inner", [(), (1,), (37,), (1025,)])
@pytest.mark.parametrize("target", [HERE, NARROW], ids=["here", "short_vectors"])
def test_into_a_tile_and_back(tokens: int, inner: tuple[int, ...], dtype: str, target) -> None:
    tile = -(-tokens // target.lanes) * target.lanes
    x = np.arange(1, 1 + tokens * int(np.prod(inner)), dtype=dtype).reshape(tokens, *inner, 1)
    tiled = run(x, TurnSpec(tokens, inner, tile, dtype), target)
    np.testing.assert_array_equal(tiled[..., :tokens], np.moveaxis(x, 0, -1)[..., 0, :][None])
    assert (tiled[..., tokens:] == 0).all()
    np.testing.assert_array_equal(run(tiled, TurnSpec(tokens, inner, tile, dtype, back=True), target), x)
