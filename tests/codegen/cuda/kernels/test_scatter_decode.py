from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch, arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.scatter_decode import KERNEL, Scatter, build, geometry, space
from sparsecc.codegen.cuda.streams import strips
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")
CASES = [
    (LinearSpec("sparse", 14336, 4096, 8, bias=True), Scatter(1, 2)),
    (LinearSpec("sparse", 2 * 1000, 1352, 16, "float16", activation="silu", gated=True, residual=True), Scatter(2, 2)),
    (LinearSpec("sparse", 100, 72, 32), Scatter(1, 1)),
]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_scatters_multiplies_and_spills_nothing(spec: LinearSpec, knobs: Scatter) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    assert found.count({"bfloat16": "HMMA.16816.F32.BF16", "float16": "HMMA.16816.F32"}[spec.dtype]) >= spec.tokens // 8 * 4
    assert found.count("STS.U16") >= 8 and found.count("LDG.E.NA.128.CONSTANT") and found.count("LDG.E.128")
    assert found.count("ACQBULK") and found.count("PREEXIT")
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers * knobs.teams * 64 <= 65536
    optional = {"B": spec.bias, "R": spec.residual}
    assert set(built.arguments) == {"W", "starts", "lengths", "X", "Y", "tokens"} | {name for name, has in optional.items() if has}


@pytest.mark.parametrize("name", ["sm_80", "sm_89"])
def test_older_devices(name: str) -> None:
    known, spec = arch(name), LinearSpec("sparse", 1000, 1352, 8, "float16")
    knobs = space(spec, known)[0]
    found = sass(nvrtc.build(build(spec, knobs, known), known).cubin)
    assert found.count("HMMA.16816.F32") and not found.count("ACQBULK")
    assert not (found.spilled or found.count("LDL") or found.count("STL"))


@pytest.mark.parametrize("known", ARCHES, ids=lambda known: known.name)
@pytest.mark.parametrize("tokens", KERNEL.tokens)
def test_knobs_fit_the_device(tokens: int, known: Arch) -> None:
    for rows, depth in ((14336, 4096), (4096, 14336), (4096, 4096), (48, 64), (1536, 1024), (33, 456)):
        spec = LinearSpec("sparse", rows, depth, tokens)
        found = space(spec, known)
        assert found and len(set(found)) == len(found)
        for knobs in found:
            launched = geometry(spec, knobs, known)
            assert launched.shared_bytes <= known.shared_bytes and launched.threads <= 1024
            assert launched.grid[0] * knobs.tiles * 2 >= strips(rows, False)


def test_rows_of_x_are_whole_loads() -> None:
    assert space(LinearSpec("sparse", 4096, 4100, 8), HOPPER) == []
