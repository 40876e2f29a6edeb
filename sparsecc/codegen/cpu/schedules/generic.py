"""The schedule of every operator that has no kernel of its own: it always applies.

Blocks that only rename or compute cheaply are inlined. Of each block that remains, the outer output loops run in parallel
and the innermost one in vectors, with the sums of a reduction in registers:

    for i, j, k, r: C[i, j, k] += A[...]   ->   parallel(i·j) for k/16: local[16] = 0; for r: local += A; C = local
"""

from __future__ import annotations

import math
from typing import Any

from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import ScheduleError, s_tir, tirx

_DATA_PARALLEL, _REDUCTION = 0, 2  # tirx.IterVar's kinds
_SERIAL_WORK = 1 << 13  # elements below which waking the other threads costs more than it gives
_EXPENSIVE = (
    "tirx.exp",
    "tirx.erf",
    "tirx.tanh",
    "tirx.log",
    "tirx.pow",
    "tirx.sqrt",
    "tirx.rsqrt",
    "tirx.sin",
    "tirx.cos",
    "tirx.sigmoid",
)


def schedule(func: Any, target: Target) -> Any:
    """The scheduled PrimFunc. Extents must be static. Sorts and scans are programs of their own and stay as they are."""
    if not isinstance(func.body, s_tir.SBlockRealize) or func.body.block.name_hint != "root":
        return func
    sch = s_tir.Schedule(func)
    _inline(sch)
    for block in _blocks(sch):
        _schedule_block(sch, block, target)
    return sch.mod["main"].with_attr("tirx.is_scheduled", 1)


def _blocks(sch: Any) -> list[Any]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _inline(sch: Any) -> None:
    """Inline elementwise blocks into what reads them: not when that repeats expensive work, nor padding into a reduction,
    where the test of its bounds would stand in the innermost loop."""
    outputs = {sch.get(block).name_hint for block in sch.get_output_blocks(sch.get_sblock("root"))}
    for block in _blocks(sch):
        stmt = sch.get(block)
        if stmt.name_hint in outputs or _reduces(stmt):
            continue
        consumers = [sch.get(consumer) for consumer in sch.get_consumers(block)]
        text = str(stmt.body)
        if any(_reduces(consumer) for consumer in consumers) and ("if_then_else" in text or "T.Select" in text):
            continue
        repeated = len(consumers) > 1 or any(_reduces(consumer) for consumer in consumers)
        if repeated and any(name.removeprefix("tirx.") in text for name in _EXPENSIVE):
            continue
        try:
            sch.compute_inline(block)
        except ScheduleError:  # it writes what it reads, or its index cannot be inverted: it stays a block of its own
            continue


def _reduces(stmt: Any) -> bool:
    return any(int(var.iter_type) == _REDUCTION for var in stmt.iter_vars)


def _extent(sch: Any, loop: Any) -> int:
    return int(sch.get(loop).extent)


def _schedule_block(sch: Any, block: Any, target: Target) -> None:
    stmt = sch.get(block)
    loops = sch.get_loops(block)
    kinds = [int(var.iter_type) for var in stmt.iter_vars]
    if len(loops) != len(kinds) or not loops or any(kind not in (_DATA_PARALLEL, _REDUCTION) for kind in kinds):
        return  # scans and sorts: they run as they are
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _DATA_PARALLEL]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == _REDUCTION]
    work = math.prod(_extent(sch, loop) for loop in loops)
    if not spatial:
        return
    if work == 0:
        _of_nothing(sch, block, bool(reduced))
    elif reduced:
        _reduction(sch, block, spatial, reduced, target, work)
    else:
        _map(sch, spatial, target, work)


def _of_nothing(sch: Any, block: Any, reduces: bool) -> None:
    """Loops that never run. A reduction of nothing is what it begins with, which stands in the first step of a loop otherwise."""
    if reduces:
        sch.decompose_reduction(block, sch.get_loops(block)[0])


def _map(sch: Any, spatial: list[Any], target: Target, work: int) -> None:
    *outer, last = spatial
    width = _vector_width(_extent(sch, last), target.lanes)
    if not outer and _extent(sch, last) > width:
        chunk, last = sch.split(last, [None, _chunk(_extent(sch, last), width, target.threads)])
        outer = [chunk]
    if width > 1:
        _, vector = sch.split(last, [None, width])
        sch.vectorize(vector)
    if outer and work >= _SERIAL_WORK:
        sch.parallel(sch.fuse(*outer) if len(outer) > 1 else outer[0])


def _reduction(sch: Any, block: Any, spatial: list[Any], reduced: list[Any], target: Target, work: int) -> None:
    *outer, last = spatial
    width = _vector_width(_extent(sch, last), target.lanes)
    if width > 1:
        split, vector = sch.split(last, [None, width])
        sch.reorder(*outer, split, *reduced, vector)
        outer, tail = [*outer, split], [vector]
    else:
        sch.reorder(*outer, last, *reduced)
        outer, tail = [*outer, last], []
    local = sch.cache_write(block, 0, "local")
    job = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    if work >= _SERIAL_WORK:
        sch.parallel(job)
    sch.reverse_compute_at(local, job)
    if tail:
        sch.vectorize(tail[0])
        sch.vectorize(sch.get_loops(local)[-1])
    init = sch.decompose_reduction(block, sch.get_loops(block)[1])
    if tail:
        sch.vectorize(sch.get_loops(init)[-1])


def _vector_width(extent: int, lanes: int) -> int:
    """The widest vector that divides the loop, at least 4; 1 leaves the loop to LLVM's vectorizer, which makes a scalar rest."""
    return next((width for width in range(lanes, 3, -1) if extent % width == 0), 1)


def _chunk(extent: int, width: int, threads: int) -> int:
    """Elements of one job of a single loop: whole vectors, about 4 jobs a thread, no rest."""
    vectors = extent // width
    jobs = next(d for d in range(min(4 * threads, vectors), 0, -1) if vectors % d == 0)
    return width * (vectors // jobs)


def known_elsewhere(func: Any) -> bool:
    """Whether a PrimFunc needs no schedule: generated kernels have theirs."""
    return bool(func.attrs is not None and "tirx.is_scheduled" in func.attrs) or not isinstance(func, tirx.PrimFunc)
