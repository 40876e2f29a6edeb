"""A candidate as numbers for the cost model: sizes as logarithms, knobs, and what they mean for registers, caches and threads."""

from __future__ import annotations

from dataclasses import astuple
from math import log2

from sparsecc.codegen.cpu.pieces.groups import SIZE
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import Knobs, ceil_div
from sparsecc.codegen.task import Task

_FLOAT = 4  # bytes, of a float32 or of a group of narrow numbers


def features(task: Task, knobs: Knobs, target: Target) -> list[float]:
    """As many, and in the same order, for all candidates of one kernel."""
    spec, structure = task.spec, task.structure
    density = structure.density if structure else 1.0
    tiles, vectors = ceil_div(spec.positions, knobs.tile), knobs.tile // target.lanes
    blocks = ceil_div(spec.rows, knobs.rows)
    jobs = spec.batch * tiles * knobs.groups
    panel_bytes = _FLOAT * knobs.panel * knobs.tile / SIZE[spec.dtype]
    strip_bytes = _FLOAT * knobs.panel * knobs.rows * density / SIZE[spec.dtype]  # weights of one block of rows over a panel
    sums_bytes = _FLOAT * spec.rows * knobs.tile if knobs.panel < spec.depth else 0
    return [
        *(log2(size) for size in (spec.rows, spec.depth, len(spec.taps), spec.batch, spec.positions)),
        *((structure.block_rows, density, structure.unevenness) if structure else ()),
        *(log2(value) for value in astuple(knobs)),
        knobs.rows * vectors / target.registers,
        vectors,
        log2(spec.depth / knobs.panel),
        log2(panel_bytes / target.l1_bytes),
        log2(panel_bytes / target.l2_bytes),
        log2(max(strip_bytes, 1) / target.l1_bytes),
        log2(max(sums_bytes, 1) / target.l2_bytes),
        tiles * knobs.tile / spec.positions,
        blocks * knobs.rows / spec.rows,
        log2(jobs / target.threads),
        ceil_div(jobs, target.threads) * target.threads / jobs,
    ]
