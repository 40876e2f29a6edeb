from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, arch
from sparsecc.codegen.cuda.kernels.nm_decode import TOKENS, DecodeSpec, Ring, build, space
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")


CASES = [(DecodeSpec(1000, 456, 8), Ring(16, 256, 2, 4)), (DecodeSpec(512, 4096, 32, "float16"), Ring(32, 512, 2, 8))]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_multiplies_sparse_pieces_and_spills_nothing(spec: DecodeSpec, knobs: Ring) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    kind = {"bfloat16": "HMMA.SP.16832.F32.BF16", "float16": "HMMA.SP.16832.F32"}[spec.dtype]
    per_stage = knobs.inputs // 32 // knobs.warps * (knobs.rows // 16) * (spec.tokens // 8)
    assert found.count(kind) in (per_stage, 2 * per_stage)  # the last stage of the loop may stand apart
    assert found.count("UBLKCP") and found.count("LDS.128") and found.count("LDG.E.128")
    assert found.count("ACQBULK") and found.count("PREEXIT")  # programmatic dependent launch
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers <= 128


@pytest.mark.parametrize("tokens", TOKENS)
def test_knobs_fit_the_device(tokens: int) -> None:
    spec = DecodeSpec(4096, 4096, tokens)
    for knobs in (found := space(spec, HOPPER)):
        assert knobs.shared_bytes(tokens) <= HOPPER.shared_bytes // 2
        assert knobs.inputs // 32 % (2 * knobs.warps) == 0
    assert found


def test_without_bulk_copies_or_whole_loads_there_is_nothing() -> None:
    assert not any(space(DecodeSpec(4096, 4096, 8), known) for known in ARCHES if not known.bulk_copies)
    assert space(DecodeSpec(4096, 4100, 8), HOPPER) == []
