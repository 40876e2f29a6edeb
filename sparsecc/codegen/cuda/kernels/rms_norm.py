"""Root mean square norm of few rows (Zhang and Sennrich 2019), as a link between layers whose weights are read ahead.

    Y[r] = X[r] · rsqrt(mean(X[r]²) + eps) · G,    in float32

It is launched before the kernel before it has ended. Once that has, it lets the next one start, whose weights are on their way while this
one works: a token of a model has two norms in each block, and Llama 3 8B's takes 1.9 ms with 4-bit integers instead of 2.1. Were the next
one started earlier, its blocks would crowd on the processors that are free first: 2.3 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import NormSpec
from sparsecc.codegen.cuda.pieces.units import ALL
from sparsecc.codegen.cuda.pieces.widen import half
from sparsecc.codegen.cuda.script import T

_PACK = "cvt.rn.{0}x2.f32"
_NAMES = {"bfloat16": "bf16", "float16": "f16"}
_MOST_ROUNDS = 4  # of a lane's registers


@dataclass(frozen=True)
class Lanes:
    """threads: of a row, each of which has 8 numbers at once."""

    threads: int

    def rounds(self, spec: NormSpec) -> int:
        return -(-spec.depth // (8 * self.threads))


def space(spec: NormSpec, arch: Arch) -> list[Lanes]:
    """Nothing where a row is no multiple of 8 numbers, or too long."""
    found = [Lanes(threads) for threads in (512, 256, 128, 1024)]
    return [lanes for lanes in found if spec.depth % 8 == 0 and 0 < lanes.rounds(spec) <= _MOST_ROUNDS and spec.rows > 0]


def geometry(spec: NormSpec, knobs: Lanes, arch: Arch) -> Geometry:
    return Geometry((spec.rows, 1, 1), knobs.threads, knobs.threads // 32 * 4, dependent=arch.bulk_copies)


def build(spec: NormSpec, knobs: Lanes, arch: Arch):
    """PrimFunc(X, G, Y): X and Y [rows, depth], G [depth]."""
    rows, depth, dtype, threads = spec.rows, spec.depth, spec.dtype, knobs.threads
    warps, rounds = threads // 32, knobs.rounds(spec)
    even = depth % (8 * threads) == 0
    pack = _PACK.format(_NAMES[dtype])

    @T.prim_func
    def rms_norm(x: T.handle, g: T.handle, y: T.handle):
        T.func_attr({"global_symbol": "rms_norm"})
        X = T.match_buffer(x, (rows, depth), dtype, align=16)
        G = T.match_buffer(g, (depth,), dtype, align=16)
        Y = T.match_buffer(y, (rows, depth), dtype, align=16)
        T.device_entry()
        row = T.cta_id([rows])
        warp = T.warp_id([warps])
        lane = T.lane_id([32])
        thread = T.meta_var(warp * 32 + lane)
        pool = T.SMEMPool()
        parts = pool.alloc((warps,), "float32", align=16)
        pool.commit()
        v = T.alloc_local([rounds * 4], "uint32")
        w = T.alloc_local([rounds * 4], "uint32")
        total = T.alloc_local([1], "float32")
        other = T.alloc_local([1], "float32")
        pair = T.alloc_local([2], "float32")

        @T.inline
        def load(to, source, i):
            for j in T.unroll(4):
                to[i * 4 + j] = T.uint32(0)
            if even or (i * threads + thread) * 8 < depth:
                T.ptx["ld.global.v4.b32"](to[i * 4], to[i * 4 + 1], to[i * 4 + 2], to[i * 4 + 3], source)

        for i in T.unroll(rounds):
            load(w, G.ptr_to([(i * threads + thread) * 8]), i)
        if arch.bulk_copies:
            T.ptx.griddepcontrol.wait()
            T.ptx.griddepcontrol.launch_dependents()
        for i in T.unroll(rounds):
            load(v, X.ptr_to([row, (i * threads + thread) * 8]), i)
        total[0] = T.float32(0)
        for i in T.unroll(rounds * 4):
            for odd in T.unroll(2):
                total[0] = total[0] + half(v[i], odd, dtype) * half(v[i], odd, dtype)
        for n in T.unroll(5):
            T.ptx["shfl_sync.bfly.b32"](other[0], total[0], T.uint32(16 >> n), T.uint32(0x1F), T.uint32(ALL))
            total[0] = total[0] + other[0]
        if lane == 0:
            parts[warp] = total[0]
        T.cuda.cta_sync()
        total[0] = T.float32(0)
        for n in T.unroll(warps):
            total[0] = total[0] + parts[n]
        total[0] = T.rsqrt(total[0] * T.float32(1 / depth) + T.float32(spec.eps))
        for i in T.unroll(rounds):
            for j in T.unroll(4):
                for odd in T.unroll(2):
                    pair[odd] = half(v[i * 4 + j], odd, dtype) * total[0] * half(w[i * 4 + j], odd, dtype)
                T.ptx[pack](v[i * 4 + j], pair[1], pair[0])
            if even or (i * threads + thread) * 8 < depth:
                T.ptx["st.global.v4.b32"](Y.ptr_to([row, (i * threads + thread) * 8]), v[i * 4], v[i * 4 + 1], v[i * 4 + 2], v[i * 4 + 3])

    return rms_norm
