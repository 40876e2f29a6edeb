from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch
from sparsecc.codegen.cuda.kernel import NormSpec
from sparsecc.codegen.cuda.kernels.rms_norm import build, geometry, space
from tests.codegen.cuda.sass import sass


@pytest.mark.parametrize("here", ARCHES, ids=lambda known: known.name)
@pytest.mark.parametrize("spec", [NormSpec(1, 4096, 1e-5), NormSpec(3, 1000, 1e-6, "float16")])
def test_it_reads_and_writes_sixteen_bytes_at_once(here: Arch, spec: NormSpec) -> None:
    knobs = space(spec, here)[0]
    built = nvrtc.build(build(spec, knobs, here), here)
    found, launched = sass(built.cubin), geometry(spec, knobs, here)
    rounds = knobs.rounds(spec)
    assert found.count("LDG.E.128") == 2 * rounds and found.count("STG.E.128") == rounds and found.count("MUFU.RSQ")
    assert bool(found.count("ACQBULK")) == bool(found.count("PREEXIT")) == launched.dependent == here.bulk_copies
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert sorted(built.arguments) == ["G", "X", "Y"] and launched.grid == (spec.rows, 1, 1)


@pytest.mark.parametrize("spec", [NormSpec(1, 4092, 1e-5), NormSpec(1, 65536, 1e-5), NormSpec(0, 64, 1e-5)])
def test_rows_that_it_does_not_take(spec: NormSpec) -> None:
    assert not any(space(spec, known) for known in ARCHES)
