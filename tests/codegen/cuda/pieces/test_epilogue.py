from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.kernel import ACTIVATIONS, LinearSpec
from sparsecc.codegen.cuda.pieces.epilogue import activated, result, tile_row
from sparsecc.codegen.tvm_api import T
from tests.codegen.cuda.sass import sass


def kernel(spec: LinearSpec):
    """One block that takes the sums of a token from `S` [packed rows]."""
    outputs, rows, dtype = spec.outputs, spec.rows, spec.dtype

    @T.prim_func
    def ends(s: T.handle, b: T.handle, r: T.handle, y: T.handle):
        T.func_attr({"global_symbol": "ends"})
        S = T.match_buffer(s, (64,), "float32")
        B = T.match_buffer(b, (rows,), dtype)
        R = T.match_buffer(r, (1, outputs), dtype)
        Y = T.match_buffer(y, (1, outputs), dtype)
        T.device_entry()
        T.cta_id([1])
        T.warp_id([1])
        lane = T.lane_id([32])
        total = T.alloc_local([2], "float32")
        row = T.meta_var(tile_row(spec, lane))
        total[0] = S[row]
        if spec.gated:
            total[1] = S[row + 8]
        Y[0, lane] = result(spec, B, R, 0, lane, total[0], total[1])

    return ends


CASES = [
    (LinearSpec("", 32, 8, 1), ["S", "Y"], ()),
    (LinearSpec("", 32, 8, 1, bias=True, activation="gelu", residual=True), ["B", "R", "S", "Y"], ()),
    (LinearSpec("", 64, 8, 1, activation="silu", gated=True), ["S", "Y"], ("MUFU.EX2",)),
    (LinearSpec("", 64, 8, 1, "float16", bias=True, activation="gelu_tanh", gated=True, residual=True), ["B", "R", "S", "Y"], ()),
]


@pytest.mark.parametrize(("spec", "arguments", "instructions"), CASES)
def test_what_the_spec_has_not_is_no_parameter(spec: LinearSpec, arguments: list[str], instructions: tuple[str, ...]) -> None:
    built = nvrtc.build(kernel(spec), arch("sm_90a"))
    assert sorted(built.arguments) == arguments
    found = sass(built.cubin)
    assert all(found.count(name) for name in instructions) and not found.spilled


def test_every_activation_is_known() -> None:
    value = T.float32(1)
    assert activated("", value) is value
    assert len({str(activated(name, value)) for name in ACTIVATIONS}) == len(ACTIVATIONS)
    with pytest.raises(KeyError):
        activated("mish", value)
