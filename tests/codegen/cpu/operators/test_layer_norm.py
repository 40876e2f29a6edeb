from __future__ import annotations

import numpy as np
import pytest
import torch

from sparsecc.codegen.cpu.operators import layer_norm
from sparsecc.codegen.cpu.operators.layer_norm import LayerNormSpec
from tests.codegen.cpu.kernels.running import HERE, call, compiled, random
from tests.tolerance import assert_close


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(("tiles", "features", "vectors"), [(1, 1, 1), (3, 33, 2), (2, 100, 3), (1, 768, 4)])
def test_against_torch(tiles: int, features: int, vectors: int, centered: bool) -> None:
    spec = LayerNormSpec(tiles, features, vectors * HERE.lanes, 1e-5, centered)
    rng = np.random.default_rng(0)
    x = 3 * random(rng, tiles, features, spec.tile) + 5
    gamma, beta = random(rng, features), random(rng, features)
    got = call(compiled(layer_norm.build(spec, HERE)), [x, gamma, beta], x.shape)
    rows = torch.from_numpy(x).double().transpose(1, 2)
    if centered:
        rows = rows - rows.mean(-1, keepdim=True)
    oracle = rows / torch.sqrt(rows.square().mean(-1, keepdim=True) + 1e-5) * torch.from_numpy(gamma) + torch.from_numpy(beta)
    assert_close(torch.from_numpy(got).transpose(1, 2), oracle.float())


def test_constant_rows_and_one_bad_token() -> None:
    """No variance gives the shift; NaN in one token stays there."""
    spec = LayerNormSpec(1, 20, HERE.lanes, 1e-5)
    x = np.full((1, 20, HERE.lanes), 7.0, np.float32)
    x[0, 3, 5] = np.nan
    beta = np.arange(20, dtype=np.float32)
    got = call(compiled(layer_norm.build(spec, HERE)), [x, np.ones(20, np.float32), beta], x.shape)
    assert np.isnan(got[0, :, 5]).all()
    others = [lane for lane in range(HERE.lanes) if lane != 5]
    assert np.allclose(got[0][:, others], beta[:, None], atol=1e-5)
