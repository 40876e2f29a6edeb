"""Reads an array again and again: how fast that goes is the bandwidth of whatever cache the array fits in."""

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T

SUMS = 8  # independent ones, so that the latency of an addition does not count


def build(vectors: int, repeats: int, target: Target):
    """PrimFunc(x, y), x: float32 [threads, vectors · lanes], of which each thread reads its row `repeats` times; vectors: a multiple of
    SUMS.  y: float32 [threads, SUMS · lanes], sums that keep the reads from being left out."""
    lanes, threads = target.lanes, target.threads

    @T.prim_func
    def read_memory(X: T.Buffer((threads, vectors * lanes), "float32"), Y: T.Buffer((threads, SUMS * lanes), "float32")):
        T.func_attr({"tirx.noalias": True})
        for t in T.parallel(threads):
            total = T.alloc_local((SUMS * lanes,), "float32")
            for s in T.unroll(SUMS):
                for l in T.vectorized(lanes):
                    total[s * lanes + l] = T.float32(0)
            for _ in range(repeats):
                for i in range(vectors // SUMS):
                    for s in T.unroll(SUMS):
                        for l in T.vectorized(lanes):
                            total[s * lanes + l] = total[s * lanes + l] + X[t, (i * SUMS + s) * lanes + l]
            for s in T.unroll(SUMS):
                for l in T.vectorized(lanes):
                    Y[t, s * lanes + l] = total[s * lanes + l]

    return read_memory
