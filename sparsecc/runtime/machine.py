"""What this machine can run, and what it reaches: measured, not looked up."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sparsecc.codegen import target as targets
from sparsecc.codegen.target import Target

_COPY_BYTES = 128 << 20  # beyond the last cache of all but the largest servers
_MATMUL_SIZE = 1536


def cannot_run(target: Target) -> str | None:
    """Why code for a target must not run here: another architecture, or instructions that this CPU lacks. None when it may."""
    here = platform.machine().replace("arm64", "aarch64")
    if target.triple.split("-")[0].replace("arm64", "aarch64") != here:
        return f"compiled for {target.triple}, this machine is {here}"
    missing = sorted(set(target.features) - set(targets.detect(target.threads).features))
    return f"compiled for {target.cpu}, this CPU lacks {', '.join(missing)}" if missing else None


def matmul_rate(repeats: int = 5) -> float:
    """FLOP/s of numpy's fp32 matrix product, with as many threads as its BLAS takes; a lower bound of the CPU's peak."""
    a = np.ones((_MATMUL_SIZE, _MATMUL_SIZE), np.float32)
    out = np.empty_like(a)
    seconds = _best(1, lambda _: np.matmul(a, a, out=out), repeats)
    return 2 * _MATMUL_SIZE**3 / seconds


def copy_bandwidth(threads: int, repeats: int = 5) -> float:
    """Bytes/s read plus written by copying arrays that fit in no cache, one piece per thread."""
    size = _COPY_BYTES // threads
    pairs = [(np.ones(size, np.uint8), np.empty(size, np.uint8)) for _ in range(threads)]
    seconds = _best(threads, lambda i: np.copyto(pairs[i][1], pairs[i][0]), repeats)
    return threads * 2 * size / seconds


def _best(threads: int, work: Callable[[int], object], repeats: int) -> float:
    """Seconds of the fastest of `repeats` rounds in which every thread works once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            list(pool.map(work, range(threads)))
            times.append(time.perf_counter() - start)
    return min(times)
