from __future__ import annotations

import pytest

from sparsecc.codegen.cuda import nvrtc
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.pieces.widen import widen
from sparsecc.codegen.tvm_api import T
from tests.codegen.cuda.sass import sass


@pytest.mark.parametrize(("kind", "dtype", "most"), [("int8", "bfloat16", 12), ("e4m3", "float16", 12)])
def test_four_numbers_take_few_instructions(kind: str, dtype: str, most: int) -> None:
    """Constants and the lane's number are among them."""
    widened = widen(kind, dtype)

    @T.prim_func
    def wide(x: T.handle, y: T.handle):
        T.func_attr({"global_symbol": "wide"})
        X = T.match_buffer(x, (32,), "uint32")
        Y = T.match_buffer(y, (64,), "uint32")
        T.device_entry()
        T.cta_id([1])
        T.warp_id([1])
        lane = T.lane_id([32])
        pairs = T.alloc_local([2], "uint32")
        word = T.alloc_local([1], "uint32")
        word[0] = X[lane]
        widened(pairs, 0, word[0])
        Y[lane] = pairs[0]
        Y[lane + 32] = pairs[1]

    found = sass(nvrtc.build(wide, arch("sm_90a")).cubin)
    assert sum(found.count(name) for name in ("LOP3", "SHF", "IMAD.SHL", "HFMA2", "HMUL2", "HADD2", "PRMT")) <= most


def test_another_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        widen("int4", "float16")
