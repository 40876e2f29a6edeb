from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch, arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.group_decode import KERNEL, Ring
from sparsecc.codegen.cuda.pack_groups import FORMS, form
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")

CASES = [
    (LinearSpec("int4 g128", 1000, 456, 8), Ring(32, 4, 1)),
    (LinearSpec("2:4 int4 g128", 1000, 1024, 16, "float16", bias=True), Ring(21, 4, 1, split=2)),
    (LinearSpec("2:4 int4 g32 zeros", 512, 512, 64, activation="silu", gated=True, residual=True), Ring(16, 4, 1)),
    (LinearSpec("int8 g128", 512, 512, 8), Ring(32, 4, 1)),
]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_multiplies_what_it_makes_of_integers_and_spills_nothing(spec: LinearSpec, knobs: Ring) -> None:
    built, kind = nvrtc.build(KERNEL.build(spec, knobs, HOPPER), HOPPER), form(spec.form)
    found = sass(built.cubin)
    dtype = {"bfloat16": ".BF16", "float16": ""}[spec.dtype]
    run = kind.steps * -(-spec.rows // 16 // knobs.blocks)
    assert found.count(f"HMMA.{'SP.16832' if kind.sparse else '16816'}.F32{dtype}") == run * min(2, spec.tokens // 8)
    assert run * 4 <= found.count("HFMA2") <= run * 4 + 2  # one for a pair of numbers, and what makes its constants
    assert found.count("LOP3") < run * (8 if kind.bits == 8 else 4) + 60  # one for a pair, or two
    assert found.count("LDGSTS.E.BYPASS.128") and found.count("LDS.128") and found.count("LDG.E.128")
    assert found.count("ACQBULK") and found.count("PREEXIT")  # programmatic dependent launch
    assert bool(found.count("UCGABAR")) == (knobs.split > 1)
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers <= 128
    optional = [name for name, there in (("B", spec.bias), ("R", spec.residual)) if there]
    assert sorted(built.arguments) == sorted(["W", "X", "Y", "tokens", *optional])


@pytest.mark.parametrize("older", [known for known in ARCHES if not known.bulk_copies], ids=lambda known: known.name)
def test_older_architectures_have_it_too(older: Arch) -> None:
    spec = LinearSpec("2:4 int4 g64 zeros", 512, 512, 8)
    found = sass(nvrtc.build(KERNEL.build(spec, Ring(16, 4, 1), older), older).cubin)
    assert found.count("HMMA.SP.16832.F32.BF16") and found.count("LDGSTS") and not found.spilled
    assert not KERNEL.geometry(spec, Ring(16, 4, 1), older).dependent


@pytest.mark.parametrize("tokens", KERNEL.tokens)
@pytest.mark.parametrize("name", FORMS)
def test_knobs_fit_every_device(name: str, tokens: int) -> None:
    spec = LinearSpec(name, 14336, 4096, tokens)
    for known in ARCHES:
        found = KERNEL.space(spec, known)
        assert found and len(set(found)) == len(found)
        for knobs in found:
            geometry = KERNEL.geometry(spec, knobs, known)
            assert geometry.shared_bytes <= known.shared_bytes and geometry.threads <= 512
            assert geometry.cluster == 1 or known.bulk_copies


GUESSES = [
    (LinearSpec("int4 g128", 14336, 4096, 8), Ring(128, 8, 1)),  # of 7 tiles; 9.9 µs on an H200, of 132 blocks 10.1
    (LinearSpec("int4 g128", 4096, 14336, 8), Ring(64, 8, 2, split=2)),
    (LinearSpec("int4 g128", 4096, 4096, 8), Ring(128, 8, 3)),
]


@pytest.mark.parametrize(("spec", "knobs"), GUESSES)
def test_the_best_guess_comes_first(spec: LinearSpec, knobs: Ring) -> None:
    assert KERNEL.space(spec, HOPPER)[0] == knobs


def test_few_rows_are_a_block_each() -> None:
    assert all(knobs.blocks <= 2 for knobs in KERNEL.space(LinearSpec("int4 g128", 20, 4096, 8), HOPPER))


def test_without_whole_loads_there_is_nothing() -> None:
    assert KERNEL.space(LinearSpec("int4 g128", 4096, 4100, 8), HOPPER) == []
