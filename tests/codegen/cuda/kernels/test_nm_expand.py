from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import Arch, arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.nm_expand import build, geometry
from tests.codegen.cuda.sass import sass

CASES = [
    (LinearSpec("2:4", 1000, 456, 8), arch("sm_80"), {"W", "D"}),
    (LinearSpec("2:4 int8", 2 * 500, 456, 8, gated=True), arch("sm_89"), {"W", "S", "D"}),
    (LinearSpec("2:4 e4m3", 1000, 4096, 8, "float16"), arch("sm_90a"), {"W", "S", "D"}),
]


@pytest.mark.parametrize(("spec", "known", "arguments"), CASES)
def test_a_lane_writes_groups(spec: LinearSpec, known: Arch, arguments: set[str]) -> None:
    built = nvrtc.build(build(spec, known), known)
    found = sass(built.cubin)
    assert set(built.arguments) == arguments
    assert found.count("STG.E.64") == 8 and not found.spilled
    assert geometry(spec, known).grid[0] * 8 >= -(-spec.rows // 16) * -(-spec.depth // 64)
