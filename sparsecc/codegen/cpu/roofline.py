"""What this machine reaches, measured with generated code: a roofline (Williams et al. 2009) by number format and cache."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsecc.codegen import tvm_api
from sparsecc.codegen.cpu import threads
from sparsecc.codegen.cpu.kernels import dense_group_matmul, dense_matmul
from sparsecc.codegen.cpu.operators import read_memory
from sparsecc.codegen.cpu.pieces import groups
from sparsecc.codegen.cpu.target import Target, shared_cache_bytes
from sparsecc.codegen.spec import MatmulSpec

DRAM_BYTES = 256 << 20  # over all threads; beyond the last cache of all but the largest servers
_ROWS, _INPUTS, _TOKENS = 192, 256, 64  # of the product whose rate is the peak: everything lies in the second-level cache
_SECONDS = 0.15  # for each figure


@dataclass(frozen=True)
class Roofline:
    """ops_per_s: multiplications and additions of the dense kernel by number format.  bytes_per_s: read by all threads together, from
    l1, l2, l3 (where the machine shows one) and dram."""

    ops_per_s: dict[str, float]
    bytes_per_s: dict[str, float]


def measure(target: Target) -> Roofline:
    """target: this machine, with the threads to use. The fastest of several runs each: a neighbour on the machine only takes away."""
    return Roofline(
        {dtype: ops_per_s(dtype, target) for dtype in groups.SIZE}, {level: bytes_per_s(level, target) for level in _sizes(target)}
    )


def bound_us(ops: float, size: float, dtype: str, target: Target) -> float:
    """The least µs that a kernel can take on this machine.

    ops: multiplications and additions that it has to do.  size: bytes that it reads and writes, which lie in the nearest cache that holds
    them all, as they do for a kernel that runs again and again.
    """
    holds = {"l1": target.threads * target.l1_bytes, "l2": target.threads * target.l2_bytes, "l3": shared_cache_bytes()}
    level = next((name for name, room in holds.items() if size <= room and name in _sizes(target)), "dram")
    return 1e6 * max(ops / ops_per_s(dtype, target), size / bytes_per_s(level, target))


@functools.cache
def bytes_per_s(level: str, target: Target) -> float:
    """Of a cache, or dram; measured once in a process."""
    return _bandwidth(_sizes(target)[level], target)


@functools.cache
def ops_per_s(dtype: str, target: Target) -> float:
    """Of the dense kernel; measured once in a process."""
    spec = replace(MatmulSpec.linear(_ROWS, _INPUTS, 2 * target.threads, _TOKENS), dtype=dtype)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((_ROWS, _INPUTS), np.float32)
    x = rng.standard_normal((spec.batch, _INPUTS, _TOKENS), np.float32)
    if dtype == "float32":
        knobs = dense_matmul.space(spec, target)[0]
        arrays = [x, *dense_matmul.prepare(matrix, None, spec, knobs)]
        arrays, function = [*arrays, arrays[2]], dense_matmul.build(spec, knobs, target)
    else:
        knobs = dense_group_matmul.space(spec, target)[0]
        weight = np.sign(matrix).astype(np.int8) if dtype == "int8" else groups.bfloat16(matrix)
        prepared = dense_group_matmul.prepare(weight, None, spec, knobs, np.ones(_ROWS, np.float32), target)
        bias = prepared[3]
        grouped, *of_tokens = groups.group_array(x, dtype, target)
        arrays = [grouped, *(of_tokens or [bias, bias]), *prepared, bias]
        function = dense_group_matmul.build(spec, knobs, target)
    return spec.flops / _fastest(function, [*arrays, np.zeros(spec.y_shape, np.float32)], target)


def _sizes(target: Target) -> dict[str, int]:
    """Bytes for each thread to read, by what they fit in: half of a cache, so that nothing else drives them out."""
    sizes = {"l1": target.l1_bytes // 2, "l2": target.l2_bytes // 2}
    shared = shared_cache_bytes() // (2 * target.threads)
    if shared > 2 * target.l2_bytes:
        sizes["l3"] = min(shared, 8 * target.l2_bytes)
    return sizes | {"dram": DRAM_BYTES // target.threads}


def _bandwidth(size: int, target: Target) -> float:
    step = 4 * target.lanes * read_memory.SUMS
    vectors = max(size // step, 1) * read_memory.SUMS
    repeats = max((1 << 20) // size, 1)
    x = np.ones((target.threads, vectors * target.lanes), np.float32)
    y = np.zeros((target.threads, read_memory.SUMS * target.lanes), np.float32)
    return x.nbytes * repeats / _fastest(read_memory.build(vectors, repeats, target), [x, y], target)


def _fastest(function: Any, arrays: list[np.ndarray], target: Target) -> float:
    """Seconds of the fastest call."""
    compiled: Callable[..., None] = tvm_api.compile_function(function, target.llvm)
    tensors = [tvm_api.tensor(array) for array in arrays]

    def repeat() -> float:
        compiled(*tensors)
        fastest, end = float("inf"), time.perf_counter() + _SECONDS
        while (start := time.perf_counter()) < end:
            compiled(*tensors)
            fastest = min(fastest, time.perf_counter() - start)
        return fastest

    return threads.run(target.threads, repeat)
