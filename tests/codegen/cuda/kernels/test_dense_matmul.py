from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, arch
from sparsecc.codegen.cuda.kernels.dense_matmul import MatmulSpec, Tiles, build, geometry, space
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")


@pytest.mark.parametrize(
    ("spec", "knobs"),
    [(MatmulSpec(1000, 1032, 4096), Tiles(256, 4, cluster=2)), (MatmulSpec(129, 264, 1000, "float16"), Tiles(128, 6, cluster=1))],
)
def test_it_multiplies_by_warpgroups_and_copies_by_boxes(spec: MatmulSpec, knobs: Tiles) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    assert set(built.arguments) == {"A", "B", "C"} == set(dict(geometry(spec, knobs, HOPPER).maps))
    kind = {"bfloat16": ".F32.BF16", "float16": ".F32"}[spec.dtype]
    products = found.count(f"HGMMA.64x{knobs.columns}x16{kind}")
    assert products in (4, 8)  # a step of 64 inputs, whose first one may stand apart
    assert found.count("WARPGROUP.DEPBAR") == products // 4 + 1  # they wait for each other nowhere else
    assert found.count("UTMALDG.2D") and bool(found.count("UTMALDG.2D.MULTICAST")) == (knobs.cluster == 2)
    assert found.count("UTMASTG.2D") == knobs.columns // 64 and found.count("STSM.16.M88.4") == knobs.columns // 16
    assert found.count("USETMAXREG") == 2
    assert not (found.spilled or found.count("LDL") or found.count("STL"))


def test_knobs_fit_the_device() -> None:
    spec = MatmulSpec(8192, 8192, 8192)
    for knobs in (found := space(spec, HOPPER)):
        launched = geometry(spec, knobs, HOPPER)
        assert launched.shared_bytes <= HOPPER.shared_bytes and launched.grid[0] % launched.cluster == 0
    assert found


def test_rows_that_cannot_be_copied_and_architectures_without_it_have_nothing() -> None:
    assert space(MatmulSpec(64, 64, 68), HOPPER) == space(MatmulSpec(64, 68, 64), HOPPER) == []
    assert not any(space(MatmulSpec(64, 64, 64), known) for known in ARCHES if known is not HOPPER)
