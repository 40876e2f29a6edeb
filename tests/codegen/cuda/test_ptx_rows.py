from __future__ import annotations

from typing import Any

import pytest

from sparsecc.codegen.cuda import nvrtc, ptx_rows
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.pieces import wgmma
from sparsecc.codegen.tvm_api import T
from tests.codegen.cuda.sass import sass

HOPPER = arch("sm_90a")


def product(dtype: str, shared: bool) -> Any:
    """One instruction for 128 columns, of A and B as they happen to lie in shared memory."""
    ptx_rows.register()
    chain = f"wgmma.mma_async.sp.sync.aligned.m64n128k32.f32.{dtype}.{dtype}"

    def multiply(sums: Any, kept: Any, left: Any, right: Any, places: Any) -> Any:
        a = (left,) if shared else tuple(kept[i] for i in range(4))
        return T.ptx[chain](*(sums[i] for i in range(64)), *a, right, places, 0, T.ptx.pred(True), 1, 1, *(0,) * (1 + shared))

    @T.prim_func
    def product(e: T.handle, d: T.handle):
        T.func_attr({"global_symbol": "product"})
        E = T.match_buffer(e, (128,), "uint32")
        D = T.match_buffer(d, (128, 64), "float32")
        T.device_entry()
        _ = T.cta_id([1])
        thread = T.thread_id([128])
        room = T.alloc_buffer((32768,), "uint8", scope="shared", align=1024)
        sums = T.alloc_local([64], "float32")
        kept = T.alloc_local([4], "uint32")
        for i in T.unroll(64):
            sums[i] = D[thread, i]
        for i in T.unroll(4):
            kept[i] = E[thread] + T.uint32(i)
        wgmma.begin()
        multiply(sums, kept, wgmma.descriptor(room.ptr_to([0])), wgmma.descriptor(room.ptr_to([16384])), E[thread])
        wgmma.end()
        wgmma.wait(0)
        for i in T.unroll(64):
            D[thread, i] = sums[i]

    return product


@pytest.mark.parametrize(("dtype", "shared"), [("bf16", True), ("f16", False)])
def test_a_sparse_product_of_a_warpgroup_is_one_instruction(dtype: str, shared: bool) -> None:
    found = sass(nvrtc.build(product(dtype, shared), HOPPER).cubin)
    assert found.count({"bf16": "HGMMA.SP.64x128x32.F32.BF16", "f16": "HGMMA.SP.64x128x32.F32"}[dtype]) == 1
    assert not found.spilled


def test_what_is_known_is_not_registered_again() -> None:
    ptx_rows.register()
    known = len(T.ptx._by_family["wgmma"])
    ptx_rows.register.cache_clear()
    ptx_rows.register()
    assert len(T.ptx._by_family["wgmma"]) == known
