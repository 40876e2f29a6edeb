from __future__ import annotations

from dataclasses import replace

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, Arch, arch
from sparsecc.codegen.cuda.kernel import AttentionSpec
from sparsecc.codegen.cuda.kernels.decode_attention import KEYS, Split, build, geometry, space
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")
LLAMA = AttentionSpec(1, 32, 8, 1, 1024, 128, 128**-0.5, masked=True)


@pytest.mark.parametrize(
    ("spec", "knobs"),
    [(LLAMA, Split(8, 4, 2)), (AttentionSpec(2, 8, 2, 3, 77, 64, 0.2, "float16"), Split(1, 4, 1))],
)
def test_it_multiplies_tiles_that_lanes_copy_and_spills_nothing(spec: AttentionSpec, knobs: Split) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    dtype = {"bfloat16": ".BF16", "float16": ""}[spec.dtype]
    products = 2 * (spec.head_dim // 16) + spec.head_dim // 8  # with keys, and with values
    assert found.count(f"HMMA.16816.F32{dtype}") == knobs.stages * products
    assert found.count("LDSM.16.M88.4") == found.count("LDSM.16.MT88.4") == knobs.stages * spec.head_dim // 16
    assert found.count("LDGSTS") == knobs.stages * 2 * 2 * KEYS * spec.head_dim * 2 // 16 // 32  # before the loop and in it
    assert found.count("PREEXIT") and bool(found.count("UCGABAR")) == (knobs.blocks > 1)
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    assert found.registers * knobs.threads <= 65536
    assert sorted(built.arguments) == sorted(["Q", "K", "V", "Y", *(["M"] if spec.masked else [])])


@pytest.mark.parametrize("older", [known for known in ARCHES if not known.bulk_copies], ids=lambda known: known.name)
def test_older_architectures_have_it_too(older: Arch) -> None:
    knobs = space(LLAMA, older)[0]
    found = sass(nvrtc.build(build(LLAMA, knobs, older), older).cubin)
    assert found.count("HMMA.16816.F32.BF16") and found.count("LDGSTS") and not found.spilled
    assert geometry(LLAMA, knobs, older).cluster == 1


@pytest.mark.parametrize("keys", [1, 16, 100, 1024, 100_000])
def test_knobs_fit_every_device(keys: int) -> None:
    spec = replace(LLAMA, keys=keys)
    for known in ARCHES:
        found = space(spec, known)
        assert found and len(set(found)) == len(found)
        for knobs in found:
            launched = geometry(spec, knobs, known)
            assert launched.shared_bytes <= known.shared_bytes and launched.grid[0] == 8 * launched.cluster


@pytest.mark.parametrize("changed", [{"head_dim": 80}, {"queries": 5}, {"kv_heads": 5}, {"keys": 0}, {"batch": 0}, {"keys": 1 << 21}])
def test_shapes_that_it_does_not_take(changed: dict[str, int]) -> None:
    assert space(replace(LLAMA, **changed), HOPPER) == []
