from __future__ import annotations

import re

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, arch
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels.nm_prefill import TOKENS, Tiles, build, geometry, space
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")
CASES = [
    (LinearSpec("2:4", 1000, 4096, 512), Tiles(cluster=2)),
    (LinearSpec("2:4", 2000, 456, 512, "float16", bias=True, activation="relu", gated=True, residual=True), Tiles(1, 64, 11)),
]


@pytest.mark.parametrize(("spec", "knobs"), CASES)
def test_it_multiplies_sparse_pieces_by_warpgroups(spec: LinearSpec, knobs: Tiles) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    assert {"W", "X", "Y", "tokens"} <= set(built.arguments) <= {"W", "X", "Y", "tokens", "B", "R"}
    products = found.count(f"HGMMA.SP.64x{knobs.columns}x32.F32")
    assert products and found.count("LDS.128") == products
    assert found.count("WARPGROUP.DEPBAR") == products // 2 + 1  # they wait for each other nowhere else
    assert found.count("UTMALDG.3D") and bool(found.count("UTMALDG.2D.MULTICAST")) == (knobs.cluster == 2)
    assert found.count("UTMASTG.2D") == knobs.columns // knobs.piece
    assert found.count("STSM.16.MT88.4") == knobs.columns // (32 if spec.gated else 16)
    assert found.count("ACQBULK") and found.count("PREEXIT")
    words = [int(place) for place in re.findall(r"\(uint64_t\*\)pool_buf_ptr\)\[(\d+)\]", built.source)]  # its barriers, which lie last
    assert max(words) * 8 + 8 == geometry(spec, knobs, HOPPER).shared_bytes
    assert not (found.spilled or found.count("LDL") or found.count("STL"))


@pytest.mark.parametrize("tokens", TOKENS)
def test_knobs_fit_the_device(tokens: int) -> None:
    spec = LinearSpec("2:4", 4096, 4096, tokens)
    for knobs in (found := space(spec, HOPPER)):
        launched = geometry(spec, knobs, HOPPER)
        assert launched.shared_bytes * (knobs.blocks // 132) <= HOPPER.shared_bytes
        assert all(max(boxes.box) <= 256 for _, boxes in launched.maps)
        assert knobs.columns % knobs.piece == 0
    assert found


def test_rows_that_cannot_be_copied_and_architectures_without_it_have_nothing() -> None:
    assert space(LinearSpec("2:4", 64, 68, 512), HOPPER) == space(LinearSpec("2:4", 68, 64, 512), HOPPER) == []
    assert not any(space(LinearSpec("2:4", 64, 64, 512), known) for known in ARCHES if known is not HOPPER)
