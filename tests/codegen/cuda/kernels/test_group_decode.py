from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.group_decode import KERNEL, Ring
from sparsecc.codegen.cuda.pack_groups import FORMS, form
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")

CASES = [
    (LinearSpec("int4 g128", 1000, 456, 8), Ring(2, 4, 2, 1)),
    (LinearSpec("2:4 int4 g128", 1000, 456, 16, "float16", bias=True), Ring(2, 4, 1, 2)),
    (LinearSpec("2:4 int4 g32 zeros", 512, 512, 64, activation="silu", gated=True, residual=True), Ring(1, 4, 1, 1)),
    (LinearSpec("int8 g128", 512, 512, 8), Ring(1, 4, 2, 1)),
]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_multiplies_what_it_makes_of_integers_and_spills_nothing(spec: LinearSpec, knobs: Ring) -> None:
    built, kind = nvrtc.build(KERNEL.build(spec, knobs, HOPPER), HOPPER), form(spec.form)
    found = sass(built.cubin)
    dtype = {"bfloat16": ".BF16", "float16": ""}[spec.dtype]
    per_run = kind.steps * knobs.tiles
    assert found.count(f"HMMA.{'SP.16832' if kind.sparse else '16816'}.F32{dtype}") == per_run * min(2, spec.tokens // 8)
    assert per_run * 4 <= found.count("HFMA2") <= per_run * 4 + 2  # one for a pair, its constants besides
    assert found.count("UBLKCP") and found.count("LDS.128") and found.count("LDGSTS.E.BYPASS.128")
    assert found.count("ACQBULK") and found.count("PREEXIT")  # programmatic dependent launch
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers <= 128
    parameters = {"W", "X", "Y", "tokens"} | {"B"} * spec.bias if False else {"W", "X", "Y", "tokens"}
    assert set(built.arguments) == parameters | ({"B"} if spec.bias else set()) | ({"R"} if spec.residual else set())


@pytest.mark.parametrize("tokens", KERNEL.tokens)
@pytest.mark.parametrize("name", FORMS)
def test_two_blocks_fit_the_device(name: str, tokens: int) -> None:
    spec = LinearSpec(name, 14336, 4096, tokens)
    found = KERNEL.space(spec, HOPPER)
    assert found and len(set(found)) == len(found)
    for knobs in found:
        geometry = KERNEL.geometry(spec, knobs, HOPPER)
        assert 2 * (geometry.shared_bytes + 1024) <= HOPPER.shared_bytes and geometry.threads <= 512


def test_without_bulk_copies_or_whole_loads_there_is_nothing() -> None:
    assert not any(KERNEL.space(LinearSpec("int4 g128", 4096, 4096, 8), known) for known in ARCHES if not known.bulk_copies)
    assert KERNEL.space(LinearSpec("int4 g128", 4096, 4100, 8), HOPPER) == []
