"""2:4 weights times few tokens: bound by the bytes of the weights. 16-bit numbers take 9/16 of the dense ones' bytes, 8-bit ones 5/16.

A block computes `rows` outputs for all tokens, and the blocks of a cluster share out the depth. Weights and X come through a ring in shared
memory, X as it is, in rows of a pitch from which `ldmatrix` reads without bank conflicts. Of a stage's work, warps share out rows, tokens
and units of inputs. Weights do not depend on the kernel before, so that the ring's are read before `griddepcontrol.wait`. At the end sums
are added in shared memory, where the ring was, always in the same order.

How many rows a block has decides how often X is read from L2: 64 tokens of 14336 inputs are 1.8 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor

import sparsecc.codegen.cuda.pack as packing
from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import Kernel, LinearSpec, Part, Weights
from sparsecc.codegen.cuda.kernels.nm_knobs import BARRIERS, Ring, space
from sparsecc.codegen.cuda.pack import STEP, TILE, UNIT, narrow_kind, packed_depth, packed_tiles
from sparsecc.codegen.cuda.pieces import epilogue
from sparsecc.codegen.cuda.pieces.widen import widen
from sparsecc.codegen.cuda.script import T

_MULTIPLY = "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.{0}.{0}.f32"
_BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
_NAMES = {"bfloat16": "bf16", "float16": "f16"}


def parts(spec: LinearSpec) -> dict[str, Part]:
    narrow = bool(narrow_kind(spec))
    packed = Part("uint8", (packed_tiles(spec), packed_depth(spec) // UNIT, packing.unit_bytes(narrow)))
    return {"S": Part("float32", (spec.rows,)), "W": packed} if narrow else {"W": packed}


def prepare(weights: Weights, spec: LinearSpec) -> dict[str, Tensor]:
    """W: uint8 [tiles, units, bytes of a unit].  S: float32 [rows], of narrow numbers.

    Raises ValueError for a weight that is not 2:4."""
    numbers = weights.numbers
    rows = packing.interleave(numbers.view(_bits(numbers)), spec).view(numbers.dtype)
    parts = {"W": packing.pack(rows)}
    if narrow_kind(spec):
        assert weights.scales is not None, "narrow numbers have scales"
        parts["S"] = weights.scales.reshape(spec.rows).contiguous()
    return parts


def unpack(parts: dict[str, Tensor], spec: LinearSpec) -> Weights:
    dtype = {"2:4": getattr(torch, spec.dtype), "2:4 int8": torch.int8, "2:4 e4m3": torch.float8_e4m3fn}[spec.form]
    rows = packing.unpack(parts["W"], len(parts["W"]) * TILE, spec.depth, dtype)
    numbers = packing.separate(rows.view(_bits(rows)), spec).view(dtype)
    return Weights(numbers, parts["S"][:, None] if narrow_kind(spec) else None)


def _bits(numbers: Tensor) -> torch.dtype:
    return torch.uint8 if numbers.itemsize == 1 else torch.int16


def geometry(spec: LinearSpec, knobs: Ring, arch: Arch) -> Geometry:
    blocks = -(-packed_tiles(spec) * TILE // knobs.rows)
    return Geometry(
        (blocks * knobs.splits, 1, 1), knobs.threads, knobs.shared_bytes(spec), cluster=knobs.splits, dependent=arch.bulk_copies
    )


def build(spec: LinearSpec, knobs: Ring, arch: Arch):
    """PrimFunc(W, S, X, B, R, Y, tokens)."""
    narrow, most, outputs, depth, dtype = bool(narrow_kind(spec)), spec.tokens, spec.outputs, spec.depth, spec.dtype
    all_tiles, all_units, unit_bytes = packed_tiles(spec), packed_depth(spec) // UNIT, packing.unit_bytes(narrow)
    rows, inputs, stages, splits, threads = knobs.rows, knobs.inputs, knobs.stages, knobs.splits, knobs.threads
    blocks, steps, units = -(-all_tiles * TILE // rows), packed_depth(spec) // inputs, inputs // UNIT
    own_steps = -(-steps // splits)
    tiles, groups, own_units = rows // TILE // knobs.row_warps, most // 8 // knobs.token_warps, units // knobs.input_warps  # of a warp
    run, weight_bytes, x_pitch = units * unit_bytes, knobs.weight_bytes(spec), knobs.x_pitch
    x_bytes, x_begin, chunks = most * x_pitch, stages * weight_bytes, inputs // 8
    places = packing.value_bytes(narrow)  # where they begin in a unit
    pitch, packed_outputs = knobs.sums_pitch, rows // 2 if spec.gated else rows
    instruction, bulk = _MULTIPLY.format(_NAMES[dtype]), arch.bulk_copies
    widened = widen(narrow_kind(spec), dtype) if narrow else None
    parts = splits * knobs.input_warps  # that a sum is made of
    ring_bytes = knobs.shared_bytes(spec) - BARRIERS

    def step_of(k, part, block, count):
        """Blocks begin at different places, so that they do not all ask for the same lines of X at once: 5 % at 16 tokens."""
        turned = k + block % count
        return part * own_steps + T.Select(turned < count, turned, turned - count)

    @T.prim_func
    def nm_decode(w: T.handle, s: T.handle, x: T.handle, b: T.handle, r: T.handle, y: T.handle, tokens: T.int32):
        T.func_attr({"global_symbol": "nm_decode"})
        W = T.match_buffer(w, (all_tiles, all_units, unit_bytes), "uint8", align=16)
        S = T.match_buffer(s, (spec.rows,), "float32")
        X = T.match_buffer(x, (tokens, depth), dtype, align=16)
        B = T.match_buffer(b, (spec.rows,), dtype)
        R = T.match_buffer(r, (tokens, outputs), dtype)
        Y = T.match_buffer(y, (tokens, outputs), dtype)
        T.device_entry()
        block_part = T.cta_id([blocks * splits])
        warp = T.warp_id([threads // 32])
        lane = T.lane_id([32])
        thread = T.meta_var(warp * 32 + lane)
        block = T.meta_var(block_part // splits)
        part = T.meta_var(block_part % splits)
        row_warp = T.meta_var(warp % knobs.row_warps)
        first_token = T.meta_var(warp // knobs.row_warps % knobs.token_warps * (groups * 8))
        input_warp = T.meta_var(warp // (knobs.row_warps * knobs.token_warps))
        count = T.meta_var(own_steps if steps == own_steps * splits else T.min(own_steps, steps - part * own_steps))
        pool = T.SMEMPool()
        full = pool.alloc((stages,), "uint64", align=8)
        ring = pool.alloc((ring_bytes,), "uint8", align=128)
        pool.commit()
        sums = T.alloc_local([tiles * groups * 4], "float32")
        a = T.alloc_local([2 * tiles * 4], "uint32")  # of two steps
        n = T.alloc_local([2 * tiles * 4], "uint32")  # of two units
        e = T.alloc_local([2 * tiles], "uint32")
        f = T.alloc_local([2 * groups * 4], "uint32")
        policy = T.alloc_local([1], "uint64")

        @T.inline
        def read_weights(k, at):
            if bulk:
                if thread == 0:
                    T.ptx.mbarrier.arrive.expect_tx.shared.b64(full.ptr_to([at]), T.uint32(weight_bytes))
                if thread < rows // TILE:
                    tile = T.meta_var(T.min(block * (rows // TILE) + thread, all_tiles - 1))
                    source = T.meta_var(W.ptr_to([tile, step_of(k, part, block, count) * units, 0]))
                    T.ptx[_BULK](ring.ptr_to([at * weight_bytes + thread * run]), source, T.uint32(run), full.ptr_to([at]), policy[0])
            else:
                for i in T.unroll(-(-weight_bytes // 16 // threads)):
                    chunk = T.meta_var(i * threads + thread)
                    if chunk < weight_bytes // 16:
                        tile = T.meta_var(T.min(block * (rows // TILE) + chunk // (run // 16), all_tiles - 1))
                        unit = T.meta_var(step_of(k, part, block, count) * units + chunk * 16 % run // unit_bytes)
                        source = T.meta_var(W.ptr_to([tile, unit, chunk * 16 % unit_bytes]))
                        T.ptx["cp.async.cg.shared.global.L2::cache_hint"](
                            ring.ptr_to([at * weight_bytes + chunk * 16]), source, 16, policy[0]
                        )

        @T.inline
        def read_x(k, at):
            for i in T.unroll(-(-most * chunks // threads)):
                token = T.meta_var((i * threads + thread) // chunks)
                chunk = T.meta_var((i * threads + thread) % chunks)
                column = T.meta_var(step_of(k, part, block, count) * inputs + chunk * 8)
                target = T.meta_var(ring.ptr_to([x_begin + at * x_bytes + token * x_pitch + chunk * 16]))
                if token < tokens:
                    if packed_depth(spec) == depth:
                        T.ptx["cp.async.cg.shared.global"](target, X.ptr_to([token, column]), 16)
                    else:  # what is missing is zero
                        size = T.meta_var(T.Select(column < depth, T.uint32(16), T.uint32(0)))
                        T.ptx["cp.async.cg.shared.global"](target, X.ptr_to([token, T.min(column, depth - 8)]), 16, size)

        @T.inline
        def load(at, u, half, buffer):
            """Fragments of a step.  buffer: for what both steps of a unit need."""
            unit = T.meta_var(input_warp * own_units + u)
            for t in T.unroll(tiles):
                place = T.meta_var(at * weight_bytes + (row_warp * tiles + t) * run + unit * unit_bytes)
                i = T.meta_var((buffer * tiles + t) * 4)
                j = T.meta_var((half * tiles + t) * 4)
                if half == 0:
                    T.ptx["ld.shared.b32"](e[buffer * tiles + t], ring.ptr_to([place + places + lane * 4]))
                    if narrow:
                        T.ptx["ld.shared.v4.b32"](n[i], n[i + 1], n[i + 2], n[i + 3], ring.ptr_to([place + lane * 16]))
                if not narrow:
                    source = T.meta_var(ring.ptr_to([place + half * (places // 2) + lane * 16]))
                    T.ptx["ld.shared.v4.b32"](a[j], a[j + 1], a[j + 2], a[j + 3], source)
            for g in T.unroll(groups):
                token = T.meta_var(first_token + g * 8 + lane % 8)
                j = T.meta_var((half * groups + g) * 4)
                source = T.meta_var(
                    ring.ptr_to([x_begin + at * x_bytes + token * x_pitch + (unit * 2 + half) * (STEP * 2) + lane // 8 * 16])
                )
                T.ptx["ldmatrix.sync.aligned.m8n8.x4.shared.b16"](f[j], f[j + 1], f[j + 2], f[j + 3], source)

        @T.inline
        def multiply(buffer, half):
            for t in T.unroll(tiles):
                j = T.meta_var((half * tiles + t) * 4)
                if narrow:
                    for i in T.unroll(2):
                        widened(a, j + i * 2, n[(buffer * tiles + t) * 4 + half * 2 + i])
                for g in T.unroll(groups):
                    c = T.meta_var((t * groups + g) * 4)
                    k = T.meta_var((half * groups + g) * 4)
                    T.ptx[instruction](
                        sums[c], sums[c + 1], sums[c + 2], sums[c + 3],
                        a[j], a[j + 1], a[j + 2], a[j + 3],
                        f[k], f[k + 1], f[k + 2], f[k + 3],
                        sums[c], sums[c + 1], sums[c + 2], sums[c + 3],
                        e[buffer * tiles + t], half,
                    )  # fmt: skip

        T.ptx["createpolicy.fractional.L2::evict_first.b64"](policy[0], T.float32(1.0))
        if bulk:
            if thread == 0:
                for i in T.unroll(stages):
                    T.ptx.mbarrier.init.shared.b64(full.ptr_to([i]), T.uint32(1))
                T.ptx.fence.mbarrier_init.release.cluster()
            T.cuda.cta_sync()
        for i in T.unroll(stages - 1):
            if i < count:
                read_weights(i, i)
        if bulk:
            T.ptx.griddepcontrol.launch_dependents()
            T.ptx.griddepcontrol.wait()
        for i in T.unroll(stages - 1):
            if i < count:
                read_x(i, i)
            T.ptx.cp.async_.commit_group()
        for i in T.unroll(tiles * groups * 4):
            sums[i] = T.float32(0)
        for k in T.serial(count):
            at = T.meta_var(k % stages)
            T.ptx.cp.async_.wait_group(stages - 2)
            if bulk:
                T.cuda.mbarrier_wait(full.ptr_to([at]), (k // stages) % 2)
            T.cuda.cta_sync()
            if knobs.late:
                load(at, 0, 0, 0)
            if k + (stages - 1) < count:
                read_weights(k + (stages - 1), (k + (stages - 1)) % stages)
                read_x(k + (stages - 1), (k + (stages - 1)) % stages)
            T.ptx.cp.async_.commit_group()
            if not knobs.late:
                load(at, 0, 0, 0)
            for u in T.unroll(own_units):  # the next step's fragments are on their way while this one's are multiplied
                load(at, u, 1, u % 2)
                multiply(u % 2, 0)
                if u + 1 < own_units:
                    load(at, u + 1, 0, (u + 1) % 2)
                multiply(u % 2, 1)
        T.cuda.cta_sync()
        for t in T.unroll(tiles):
            for g in T.unroll(groups):
                for i in T.unroll(4):
                    token = T.meta_var(input_warp * most + first_token + g * 8 + lane % 4 * 2 + i % 2)
                    row = T.meta_var((row_warp * tiles + t) * TILE + lane // 4 + i // 2 * 8)
                    T.ptx["st.shared.f32"](ring.ptr_to([(token * pitch + row) * 4]), sums[(t * groups + g) * 4 + i])
        if splits > 1:
            T.cuda.cluster_sync()
        else:
            T.cuda.cta_sync()
        some = T.alloc_local([parts * 4], "float32")
        total = T.alloc_local([8], "float32")
        remote = T.alloc_local([1], "uint32")

        @T.inline
        def add_up(begin, token, row):
            for i in T.unroll(parts):
                place = T.meta_var(((i % knobs.input_warps * most + token) * pitch + row) * 4)
                j = T.meta_var(i * 4)
                if splits > 1:
                    own = T.meta_var(T.cuda.cvta_generic_to_shared(ring.ptr_to([place])))
                    T.ptx["mapa.shared::cluster.u32"](remote[0], own, T.cast(i // knobs.input_warps, "uint32"))
                    T.ptx["ld.shared::cluster.v4.f32"](some[j], some[j + 1], some[j + 2], some[j + 3], remote[0])
                else:
                    T.ptx["ld.shared.v4.f32"](some[j], some[j + 1], some[j + 2], some[j + 3], ring.ptr_to([place]))
            for j in T.unroll(4):
                total[begin + j] = T.float32(0)
                for i in T.unroll(parts):
                    total[begin + j] = total[begin + j] + some[i * 4 + j]

        quads = T.meta_var(packed_outputs // 4)
        own_places = T.meta_var(-(-quads * most // splits))
        for m in T.serial(-(-own_places // threads)):
            place = T.meta_var(part * own_places + m * threads + thread)
            token = T.meta_var(place // quads)
            first = T.meta_var(place % quads * 4)
            if m * threads + thread < own_places and token < tokens and block * packed_outputs + first < outputs:
                add_up(0, token, epilogue.tile_row(spec, first))
                if spec.gated:
                    add_up(4, token, epilogue.tile_row(spec, first) + 8)
                for i in T.unroll(4):
                    output = T.meta_var(block * packed_outputs + first + i)
                    if output < outputs:
                        if narrow:
                            total[i] = total[i] * S[output]
                            if spec.gated:
                                total[4 + i] = total[4 + i] * S[outputs + output]
                        Y[token, output] = epilogue.result(spec, B, R, token, output, total[i], total[4 + i])
        if splits > 1:  # others read this block's sums
            T.cuda.cluster_sync()

    return nm_decode


KERNEL = Kernel(("2:4", "2:4 int8", "2:4 e4m3"), (8, 16, 32, 64), Ring, parts, space, prepare, unpack, build, geometry, "nm_expand")
