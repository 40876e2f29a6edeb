"""2:4 weights times few tokens, in bfloat16 or float16: bound by the bytes of the weights, which are 9/16 of the dense ones.

    Y[t, o] = bias[o] + Σ_i W[o, i] · X[t, i]

A block computes `rows` outputs for all tokens. Its weights come through a ring of bulk copies; each stage holds `inputs` inputs of all its
rows, and its warps share out the steps of a stage. Weights do not depend on the kernel before, so that the ring is filled before
`griddepcontrol.wait`. X comes from L2, one stage ahead into registers: 8 tokens of 14336 inputs took 23.3 µs without that, 18.4 with it. At
the end the warps' sums are added in shared memory, where the ring was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.pack import PLACE_BYTES, STEP, TILE, VALUE_BYTES, pack
from sparsecc.codegen.cuda.script import T

TOKENS = (8, 16, 32, 64)  # buckets: a kernel takes up to as many
_MULTIPLY = "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{0}.{0}.f32"
_BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
_NAMES = {"bfloat16": "bf16", "float16": "f16"}
_BARRIERS = 128  # bytes of shared memory before the ring


@dataclass(frozen=True)
class DecodeSpec:
    """rows, depth: of the weight.  tokens: at most, one of `TOKENS`.  dtype: of weights, X and Y; sums are float32."""

    rows: int
    depth: int
    tokens: int
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Ring:
    """rows: of a block.  inputs: of a stage.  stages: in flight.  warps: of a block."""

    rows: int
    inputs: int
    stages: int
    warps: int

    @property
    def stage_bytes(self) -> int:
        return self.rows // TILE * self.inputs // STEP * (VALUE_BYTES + PLACE_BYTES)

    def shared_bytes(self, tokens: int) -> int:
        return _BARRIERS + max(self.stages * self.stage_bytes, self.warps * tokens * _pitch(self.rows) * 4)


def space(spec: DecodeSpec, arch: Arch) -> list[Ring]:
    """Nothing where the architecture has no bulk copies."""
    return list(_space(spec, arch)) if arch.bulk_copies and spec.depth % 8 == 0 else []


def _space(spec: DecodeSpec, arch: Arch) -> Iterator[Ring]:
    for rows in (16, 32, 64):
        if rows // TILE * spec.tokens // 8 > 16:  # more sums than a lane has registers for
            continue
        for inputs in (256, 512, 1024):
            for stages in (2, 3, 4, 6):
                for warps in (2, 4, 8):
                    ring = Ring(rows, inputs, stages, warps)
                    fits = ring.shared_bytes(spec.tokens) <= arch.shared_bytes // 2  # two blocks of a processor at least
                    if inputs // STEP % (2 * warps) == 0 and stages <= -(-spec.depth // inputs) and fits:
                        yield ring


def prepare(weight: np.ndarray, spec: DecodeSpec, knobs: Ring) -> np.ndarray:
    """weight: the numbers' bits, uint16 [rows, depth], 2:4. Returns uint8 [blocks, stages of the depth, bytes of a stage]."""
    return pack(weight, knobs.rows, knobs.inputs)


def build(spec: DecodeSpec, knobs: Ring, arch: Arch):
    """PrimFunc(W, X, bias, Y, tokens): W as `prepare` has it, X [tokens, depth], bias [rows], Y [tokens, rows]."""
    rows, warps, stages = knobs.rows, knobs.warps, knobs.stages
    blocks, steps, stage = -(-spec.rows // rows), -(-spec.depth // knobs.inputs), knobs.stage_bytes
    tiles, groups = rows // TILE, spec.tokens // 8
    tile_steps = knobs.inputs // STEP
    per_warp = tile_steps // warps
    places = tiles * tile_steps * VALUE_BYTES  # where they begin in a stage
    threads, pitch = warps * 32, _pitch(rows)
    multiply = _MULTIPLY.format(_NAMES[spec.dtype])
    outputs, depth, dtype, most = spec.rows, spec.depth, spec.dtype, spec.tokens
    ring_bytes = knobs.shared_bytes(most) - _BARRIERS

    @T.prim_func
    def nm_decode(w: T.handle, x: T.handle, b: T.handle, y: T.handle, tokens: T.int32):
        T.func_attr(
            {
                "global_symbol": "nm_decode",
                "tirx.kernel_launch_params": ["tirx.use_programtic_dependent_launch"],
            }
        )
        W = T.match_buffer(w, (blocks, steps, stage), "uint8", align=16)
        X = T.match_buffer(x, (tokens, depth), dtype, align=16)
        B = T.match_buffer(b, (outputs,), dtype)
        Y = T.match_buffer(y, (tokens, outputs), dtype)
        T.device_entry()
        block = T.cta_id([blocks])
        warp = T.warp_id([warps])
        lane = T.lane_id([32])
        thread = T.meta_var(warp * 32 + lane)
        pool = T.SMEMPool()
        full = pool.alloc((stages,), "uint64", align=8)
        ring = pool.alloc((ring_bytes,), "uint8", align=128)
        pool.commit()
        sums = T.alloc_local([tiles * groups * 4], "float32")
        a = T.alloc_local([tiles * 8], "uint32")
        e = T.alloc_local([tiles], "uint32")
        r = T.alloc_local([per_warp * groups * 4], "uint32")  # X of the next stage as it was read
        f = T.alloc_local([per_warp * groups * 4], "uint32")  # and of this one as fragments
        s = T.alloc_local([2], "uint32")
        policy = T.alloc_local([1], "uint64")

        @T.inline
        def add(sums, c, a, p, f, q, e, t, selector):
            T.ptx[multiply](
                sums[c], sums[c + 1], sums[c + 2], sums[c + 3],
                a[p], a[p + 1], a[p + 2], a[p + 3],
                f[q], f[q + 1], f[q + 2], f[q + 3],
                sums[c], sums[c + 1], sums[c + 2], sums[c + 3],
                e[t], selector,
            )  # fmt: skip

        T.ptx["createpolicy.fractional.L2::evict_first.b64"](policy[0], T.float32(1.0))

        @T.inline
        def read(k):
            for step in T.unroll(per_warp):
                for g in T.unroll(groups):
                    i = T.meta_var((step * groups + g) * 4)
                    column = T.meta_var(k * knobs.inputs + (warp * per_warp + step) * STEP + lane % 4 * 8)
                    if g * 8 + lane // 4 < tokens and column < depth:
                        T.ptx["ld.global.v4.b32"](r[i], r[i + 1], r[i + 2], r[i + 3], X.ptr_to([g * 8 + lane // 4, column]))

        if thread == 0:
            for i in T.unroll(stages):
                T.ptx.mbarrier.init.shared.b64(full.ptr_to([i]), T.uint32(1))
            T.ptx.fence.mbarrier_init.release.cluster()
            for i in T.unroll(stages):
                T.ptx.mbarrier.arrive.expect_tx.shared.b64(full.ptr_to([i]), T.uint32(stage))
                T.ptx[_BULK](ring.ptr_to([i * stage]), W.ptr_to([block, i, 0]), T.uint32(stage), full.ptr_to([i]), policy[0])
        T.cuda.cta_sync()
        T.ptx.griddepcontrol.wait()
        for i in T.unroll(tiles * groups * 4):
            sums[i] = T.float32(0)
        for i in T.unroll(per_warp * groups * 4):
            r[i] = T.uint32(0)
        read(0)
        for k in T.serial(steps):
            at = T.meta_var(k % stages)
            for i in T.unroll(per_warp * groups):  # neighbours swap: even lanes take first halves of four groups, odd ones second
                s[0] = T.if_then_else(lane % 2 == 0, r[i * 4 + 1], r[i * 4])
                s[1] = T.if_then_else(lane % 2 == 0, r[i * 4 + 3], r[i * 4 + 2])
                for j in T.unroll(2):
                    T.ptx["shfl_sync.bfly.b32"](s[j], s[j], T.uint32(1), T.uint32(0x1F), T.uint32(0xFFFFFFFF))
                f[i * 4] = T.if_then_else(lane % 2 == 0, r[i * 4], s[0])
                f[i * 4 + 1] = T.if_then_else(lane % 2 == 0, r[i * 4 + 2], s[1])
                f[i * 4 + 2] = T.if_then_else(lane % 2 == 0, s[0], r[i * 4 + 1])
                f[i * 4 + 3] = T.if_then_else(lane % 2 == 0, s[1], r[i * 4 + 3])
            for i in T.unroll(per_warp * groups * 4):
                r[i] = T.uint32(0)
            read(k + 1)
            T.cuda.mbarrier_wait(full.ptr_to([at]), (k // stages) % 2)
            for pair in T.unroll(per_warp // 2):
                step = T.meta_var(warp * per_warp + pair * 2)
                for t in T.unroll(tiles):
                    for half in T.unroll(2):
                        i = T.meta_var(t * 8 + half * 4)
                        offset = T.meta_var(at * stage + (t * tile_steps + step + half) * VALUE_BYTES + lane * 16)
                        T.ptx["ld.shared.v4.b32"](a[i], a[i + 1], a[i + 2], a[i + 3], ring.ptr_to([offset]))
                    T.ptx["ld.shared.b32"](e[t], ring.ptr_to([at * stage + places + (t * tile_steps + step) * PLACE_BYTES + lane * 4]))
                for t in T.unroll(tiles):
                    for g in T.unroll(groups):
                        c = T.meta_var((t * groups + g) * 4)
                        add(sums, c, a, t * 8, f, (pair * 2 * groups + g) * 4, e, t, 0)
                        add(sums, c, a, t * 8 + 4, f, ((pair * 2 + 1) * groups + g) * 4, e, t, 1)
            T.cuda.cta_sync()
            if thread == 0 and k + stages < steps:
                T.ptx.mbarrier.arrive.expect_tx.shared.b64(full.ptr_to([at]), T.uint32(stage))
                T.ptx[_BULK](ring.ptr_to([at * stage]), W.ptr_to([block, k + stages, 0]), T.uint32(stage), full.ptr_to([at]), policy[0])
        T.ptx.griddepcontrol.launch_dependents()
        for t in T.unroll(tiles):
            for g in T.unroll(groups):
                for i in T.unroll(4):
                    token = T.meta_var(g * 8 + lane % 4 * 2 + i % 2)
                    row = T.meta_var(t * TILE + lane // 4 + i // 2 * 8)
                    T.ptx["st.shared.f32"](ring.ptr_to([((warp * most + token) * pitch + row) * 4]), sums[(t * groups + g) * 4 + i])
        T.cuda.cta_sync()
        part = T.alloc_local([warps], "float32")
        total = T.alloc_local([1], "float32")
        for n in T.serial(-(-rows * most // threads)):
            place = T.meta_var(n * threads + thread)
            if place < rows * most:
                token = T.meta_var(place // rows)
                output = T.meta_var(block * rows + place % rows)
                if token < tokens and output < outputs:
                    for i in T.unroll(warps):
                        T.ptx["ld.shared.f32"](part[i], ring.ptr_to([((i * most + token) * pitch + place % rows) * 4]))
                    total[0] = T.cast(B[output], "float32")
                    for i in T.unroll(warps):
                        total[0] = total[0] + part[i]
                    Y[token, output] = T.cast(total[0], dtype)

    return nm_decode


def _pitch(rows: int) -> int:
    """Floats between the sums of two tokens, so that the lanes of a warp write to different banks."""
    return rows + 4
