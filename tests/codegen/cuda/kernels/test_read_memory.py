from __future__ import annotations

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, arch
from sparsecc.codegen.cuda.kernels.read_memory import Pieces, ReadSpec, build, geometry, space
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")


def test_it_copies_and_hardly_does_anything_else() -> None:
    built = nvrtc.build(build(ReadSpec(1 << 20), Pieces(), HOPPER), HOPPER)
    found = sass(built.cubin)
    assert found.count("UBLKCP") == 1 and found.count("LDS") == 1 and found.count("ACQBULK") == 1
    assert sum(found.instructions.values()) < 300 and not found.spilled
    assert set(built.arguments) == {"X", "S"}


def test_knobs_fit_the_device() -> None:
    spec = ReadSpec(1 << 20)
    assert all(geometry(spec, knobs, HOPPER).shared_bytes <= HOPPER.shared_bytes for knobs in space(spec, HOPPER))
    assert space(spec, HOPPER)


def test_without_bulk_copies_there_is_nothing() -> None:
    assert not any(space(ReadSpec(1 << 20), known) for known in ARCHES if not known.bulk_copies)
    assert space(ReadSpec(100), HOPPER) == []
