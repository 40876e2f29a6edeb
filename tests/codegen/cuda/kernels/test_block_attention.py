from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import ARCHES, arch
from sparsecc.codegen.cuda.kernel import BlockAttentionSpec
from sparsecc.codegen.cuda.kernels import block_attention
from sparsecc.codegen.cuda.kernels.block_attention import TILE, Tiles, build, geometry, space
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")
VIDEO = BlockAttentionSpec(1, 48, 48, 17776, 64, 0.125, 128)


@pytest.mark.parametrize(
    ("spec", "knobs"),
    [
        (VIDEO, Tiles(4)),
        (BlockAttentionSpec(2, 8, 2, 1000, 128, 0.1, 64, "float16", causal=True), Tiles(2)),
        (BlockAttentionSpec(1, 4, 2, 512, 64, 0.1, 64, ordered=True), Tiles(3)),
        (BlockAttentionSpec(2, 4, 2, 500, 128, 0.1, 128, tokens_first="QV", masked=True), Tiles(3)),
        (replace(VIDEO, int8=True, ordered=True), Tiles(4)),
        (BlockAttentionSpec(2, 8, 2, 1000, 128, 0.1, 64, "float16", causal=True, int8=True), Tiles(2)),
    ],
)
def test_warpgroups_multiply_tiles_that_boxes_bring(spec: BlockAttentionSpec, knobs: Tiles) -> None:
    built = nvrtc.build(build(spec, knobs, HOPPER), HOPPER)
    found = sass(built.cubin)
    kind = {"bfloat16": ".F32.BF16", "float16": ".F32"}[spec.dtype]
    scores, values = 2 * spec.head_dim // 16, 2 * TILE // 16  # for the first tile of a run, and beside the products of the one before
    if spec.int8:
        assert found.count("IGMMA.64x128x32.S8.S8") == scores // 2 and found.count("HGMMA") == values and not found.count("I2F")
    elif spec.head_dim == TILE:
        assert found.count(f"HGMMA.64x128x16{kind}") == scores + values
    else:
        assert found.count(f"HGMMA.64x128x16{kind}") == scores and found.count(f"HGMMA.64x64x16{kind}") == values
    assert (
        found.count("UTMALDG.4D") == (2 + spec.head_dim // 64 if spec.int8 else 3 * spec.head_dim // 64) and found.count("USETMAXREG") == 2
    )
    assert found.count("MUFU.EX2") >= 2 * TILE // 2  # one for each score of a lane
    assert not (found.spilled or found.count("LDL") or found.count("STL"))
    names = ("QKV" if spec.ordered else "") + ("QK" if spec.int8 else "")
    bringing = ["C"] if names else []
    bringing += [*(name + mark for name in names for mark in "RO"), *(["P"] if spec.ordered else []), *(["QS", "KS"] if spec.int8 else [])]
    assert set(built.arguments) == {"Q", "K", "V", "I", "L", "Y", *bringing, *(["M"] if spec.masked else [])}
    assert found.count("ATOM") == found.count("RED") == int(bool(names))  # who brings which rows, and what is ready
    assert set(dict(geometry(spec, knobs, HOPPER).maps)) == {"Q", "K", "V"}


def test_warps_take_no_more_registers_than_others_give_up() -> None:
    """A kernel of three warpgroups starts with 168 for each thread; who asks for more than are free waits for ever."""
    assert all(few + 2 * many <= 3 * 168 for few, many in block_attention._REGISTERS.values())


@pytest.mark.parametrize("depth", [64, 128])
def test_knobs_fit_the_device(depth: int) -> None:
    found = space(replace(VIDEO, head_dim=depth), HOPPER)
    assert found and all(geometry(replace(VIDEO, head_dim=depth), knobs, HOPPER).shared_bytes <= HOPPER.shared_bytes for knobs in found)


@pytest.mark.parametrize("changed", [{"head_dim": 80}, {"block": 32}, {"kv_heads": 5}, {"batch": 64}, {"batch": 0}, {"scale": 0.0}])
def test_what_it_does_not_take(changed: dict[str, Any]) -> None:
    assert space(replace(VIDEO, **changed), HOPPER) == []
    assert not any(space(VIDEO, known) for known in ARCHES if known is not HOPPER)
