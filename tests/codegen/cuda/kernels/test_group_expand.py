from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.group_expand import build, geometry
from tests.codegen.cuda.sass import sass


@pytest.mark.parametrize("name", ["int4 g32 zeros", "2:4 int4 g128"])
def test_lanes_write_whole_rows_of_sectors(name: str) -> None:
    spec = LinearSpec(name, 1000, 456, 8, gated=True)
    built = nvrtc.build(build(spec, arch("sm_80")), arch("sm_80"))
    found = sass(built.cubin)
    assert sorted(built.arguments) == ["D", "W"]
    assert found.count("STG.E.128") == 8 and found.count("STG") == 8 and not found.spilled
    assert geometry(spec).grid == (1, 63, 1)  # 8 pieces side by side, tiles of 8 rows of the gate and 8 of the other factor
