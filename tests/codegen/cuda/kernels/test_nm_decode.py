from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch, arch
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.kernels.nm_decode import KERNEL, build, geometry, prepare, unpack
from sparsecc.codegen.cuda.kernels.nm_knobs import Ring, fits, space
from sparsecc.codegen.cuda.pack import packed_depth
from tests.codegen.cuda.sass import sass
from tests.codegen.cuda.test_pack import bits, sparse

HOPPER = arch("sm_90a")
NUMBERS = {"2:4": torch.bfloat16, "2:4 int8": torch.int8, "2:4 e4m3": torch.float8_e4m3fn}
CASES = [
    (LinearSpec("2:4", 1000, 456, 8, bias=True), Ring(32, 256, 2)),
    (LinearSpec("2:4", 4096, 14336, 64, "float16"), Ring(256, 128, 2, 4, 1, 2, splits=8)),
    (LinearSpec("2:4 int8", 2 * 1000, 4096, 16, activation="silu", gated=True), Ring(112, 512, 3, 1, 8)),
    (LinearSpec("2:4 e4m3", 1000, 4096, 8, residual=True), Ring(64, 512, 3, 1, 8)),
]
OTHERS = [
    (LinearSpec("2:4", 1000, 456, 16, bias=True), Ring(32, 256, 2), arch("sm_80")),
    (LinearSpec("2:4 int8", 4096, 4096, 8, "float16"), Ring(64, 256, 3), arch("sm_89")),
]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_multiplies_sparse_pieces_and_spills_nothing(spec: LinearSpec, knobs: Ring) -> None:
    assert fits(spec, knobs, HOPPER)
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    multiply = {"bfloat16": "HMMA.SP.16832.F32.BF16", "float16": "HMMA.SP.16832.F32"}[spec.dtype]
    steps = knobs.inputs // 32 * (knobs.rows // 16) * (spec.tokens // 8) // (knobs.threads // 32)
    assert found.count(multiply) % steps == 0 and found.count(multiply)  # the loop may be unrolled
    assert found.count("UBLKCP") and found.count("LDS.128") and found.count("LDSM.16.M88.4") and found.count("LDGSTS.E.BYPASS")
    assert found.count("ACQBULK") and found.count("PREEXIT")  # programmatic dependent launch
    assert bool(found.count("UCGABAR_ARV")) == (knobs.splits > 1)
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers * knobs.threads <= 65536
    optional = {"B": spec.bias, "R": spec.residual, "S": spec.form != "2:4"}
    assert set(built.arguments) == {"W", "X", "Y", "tokens"} | {name for name, has in optional.items() if has}


@pytest.mark.parametrize("depth", [640, 768])
def test_inputs_that_only_the_padded_weight_has_are_zero(depth: int) -> None:
    """Others would be read from the next token, or from behind the last one: times zero, but NaN if it is NaN."""
    spec = LinearSpec("2:4 int8", 64, depth, 16)
    built = nvrtc.build(build(spec, Ring(16, 128, 3, 1, 2, 2, splits=2), HOPPER), HOPPER)
    padded = packed_depth(spec) != depth
    assert padded == (depth == 640) and ("[%1], 16, %2;" in built.source) == padded == ("[%1], 16;" not in built.source)


@pytest.mark.parametrize(("spec", "knobs", "known"), OTHERS)
def test_older_devices_copy_by_threads(spec: LinearSpec, knobs: Ring, known: Arch) -> None:
    assert fits(spec, knobs, known)
    found = sass(nvrtc.build(build(spec, knobs, known), known).cubin)
    assert found.count("HMMA.SP.16832.F32") and found.count("LDGSTS.E.BYPASS") and not found.count("UBLKCP")
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert not geometry(spec, knobs, known).dependent


@pytest.mark.parametrize("known", ARCHES, ids=lambda known: known.name)
@pytest.mark.parametrize("tokens", KERNEL.tokens)
@pytest.mark.parametrize("form", KERNEL.forms)
def test_knobs_fit_the_device(form: str, tokens: int, known: Arch) -> None:
    for rows, depth in ((14336, 4096), (4096, 14336), (33, 456)):
        spec = LinearSpec(form, rows, depth, tokens)
        found = space(spec, known)
        assert found and len(set(found)) == len(found)
        for knobs in found:
            assert knobs.shared_bytes(spec) <= known.shared_bytes and knobs.threads <= 1024
            assert known.bulk_copies or knobs.splits == 1
            launched = geometry(spec, knobs, known)
            assert launched.grid[0] % launched.cluster == 0 and launched.grid[0] * knobs.rows >= rows * knobs.splits


def test_rows_of_x_are_whole_loads() -> None:
    assert space(LinearSpec("2:4", 4096, 4100, 8), HOPPER) == []


@given(st.sampled_from(KERNEL.forms), st.integers(1, 40), st.integers(1, 300), st.booleans(), st.integers(0, 9))
def test_unpack_is_its_inverse(form: str, rows: int, depth: int, gated: bool, seed: int) -> None:
    spec = LinearSpec(form, 2 * rows if gated else rows, depth, 8, gated=gated)
    numbers = sparse(spec.rows, depth, seed, NUMBERS[form])
    scales = torch.rand(spec.rows, 1) if form != "2:4" else None
    back = unpack(prepare(Weights(numbers, scales), spec), spec)
    assert back.numbers.dtype == numbers.dtype and torch.equal(bits(back.numbers), bits(numbers))
    assert back.scales is None if scales is None or back.scales is None else torch.equal(back.scales, scales)
