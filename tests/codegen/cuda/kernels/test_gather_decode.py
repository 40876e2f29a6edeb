from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch, arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.gather_decode import KERNEL, Gather, build, geometry, space
from sparsecc.codegen.cuda.streams import strips
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")
CASES = [
    (LinearSpec("sparse", 14336, 4096, 1), Gather(14, 1, 28, 8)),
    (LinearSpec("sparse", 14336, 4096, 4, bias=True), Gather(14, 1, 28, 2)),
    (LinearSpec("sparse", 2 * 1000, 1352, 2, "float16", activation="silu", gated=True, residual=True), Gather(4, 2, 4, 4, wide=False)),
    (LinearSpec("sparse", 100, 72, 1), Gather(4, 1, 4, 8, ahead=3)),
]
OLDER = [(LinearSpec("sparse", 1000, 1352, 4, "float16"), "sm_80"), (LinearSpec("sparse", 4096, 4096, 1), "sm_89")]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_gathers_and_spills_nothing(spec: LinearSpec, knobs: Gather) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    load = {4: "LDS", 8: "LDS.64", 16: "LDS.128"}[knobs.input_bytes(spec)]
    assert found.instructions[load] >= 8 * knobs.ahead and found.instructions["FFMA"] >= 8 * knobs.ahead * spec.tokens
    assert found.instructions["PRMT"] >= 8 * knobs.ahead  # an address each
    assert found.count("LDG.E.NA.128.CONSTANT") and found.count("ACQBULK") and found.count("PREEXIT")
    assert bool(found.count("UCGABAR_ARV")) == (knobs.cluster > 1)
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers * knobs.warps * 32 <= 65536
    optional = {"B": spec.bias, "R": spec.residual}
    assert set(built.arguments) == {"W", "starts", "lengths", "X", "Y", "tokens"} | {name for name, has in optional.items() if has}


@pytest.mark.parametrize(("spec", "name"), OLDER)
def test_older_devices(spec: LinearSpec, name: str) -> None:
    known = arch(name)
    knobs = space(spec, known)[0]
    found = sass(nvrtc.build(build(spec, knobs, known), known).cubin)
    assert found.count("LDG.E.128") + found.count("LDG.E.NA.128") and not found.count("ACQBULK")
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert not geometry(spec, knobs, known).dependent


@pytest.mark.parametrize("known", ARCHES, ids=lambda known: known.name)
@pytest.mark.parametrize("tokens", KERNEL.tokens)
def test_knobs_fit_the_device(tokens: int, known: Arch) -> None:
    for rows, depth in ((14336, 4096), (4096, 14336), (4096, 4096), (128256, 4096), (48, 64), (1536, 1024), (33, 456)):
        spec = LinearSpec("sparse", rows, depth, tokens)
        found = space(spec, known)
        assert len(set(found)) == len(found) and (found or (known.shared_bytes <= 99 * 1024 and (depth, tokens) == (14336, 4)))
        for knobs in found:
            launched = geometry(spec, knobs, known)
            assert launched.shared_bytes <= known.shared_bytes and launched.threads <= 1024
            assert launched.grid[0] % launched.cluster == 0 and launched.cluster <= (2 if known.bulk_copies else 1)
            assert launched.grid[0] // launched.cluster * knobs.strips >= strips(rows, False)


def test_pairs_of_inputs_are_whole_loads() -> None:
    assert space(LinearSpec("sparse", 4096, 4100, 1), HOPPER) == []


def test_a_gated_block_has_both_factors() -> None:
    assert all(knobs.strips % 2 == 0 for knobs in space(LinearSpec("sparse", 2 * 4096, 4096, 1, gated=True), HOPPER))
