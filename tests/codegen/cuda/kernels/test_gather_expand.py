from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.gather_expand import build, geometry
from sparsecc.codegen.cuda.streams import strips, units
from tests.codegen.cuda.sass import sass

CASES = [
    (LinearSpec("sparse", 14336, 4096, 0), "sm_90a"),
    (LinearSpec("sparse", 2 * 1000, 1352, 0, "float16", gated=True), "sm_90a"),
    (LinearSpec("sparse", 33, 72, 0), "sm_80"),
]


@pytest.mark.parametrize(("spec", "name"), CASES)
def test_it_writes_eight_inputs_at_once_and_spills_nothing(spec: LinearSpec, name: str) -> None:
    known = arch(name)
    built = nvrtc.build(build(spec, known), known)
    found = sass(built.cubin)
    assert found.count("STS.U16") >= 8 and found.count("STG.E.128") and not (found.spilled or found.count("LDL") or found.count("STL"))
    assert set(built.arguments) == {"W", "starts", "lengths", "D"}
    launched = geometry(spec, known)
    assert launched.grid[0] * launched.threads // 32 >= strips(spec.outputs, spec.gated) * units(spec.depth)
    assert launched.shared_bytes <= known.shared_bytes
