"""A candidate as numbers for the cost model: sizes as logarithms, knobs, and what they mean for registers, caches and threads."""

from __future__ import annotations

from dataclasses import astuple
from math import log2

from sparsecc.codegen.cpu.pieces.matvec import Passes
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.numbers import SIZE
from sparsecc.codegen.spec import MatmulSpec, ceil_div
from sparsecc.codegen.task import Task
from sparsecc.codegen.zeros import ZeroProfile

_FLOAT = 4  # bytes, of a float32 or of a group of narrow numbers
_NO_ZEROS = ZeroProfile(1, 1.0, 0.0)


def features(task: Task, knobs: Knobs, target: Target) -> list[float]:
    """As many, and in the same order, for all candidates of one kernel."""
    spec, structure = task.spec, task.structure or _NO_ZEROS
    assert isinstance(knobs, Tiles | Passes)
    return [
        *(log2(size) for size in (spec.rows, spec.depth, len(spec.taps), spec.batch, spec.positions)),
        *(structure.block_rows, structure.density, structure.unevenness),
        *(log2(value) for value in astuple(knobs)),
        *(_of_tiles(task, knobs, target) if isinstance(knobs, Tiles) else _of_passes(spec, knobs, target)),
    ]


def _of_passes(spec: MatmulSpec, knobs: Passes, target: Target) -> list[float]:
    vectors = knobs.rows // target.lanes
    passes, blocks = ceil_div(spec.batch, knobs.tokens), ceil_div(spec.rows, knobs.rows)
    return [
        knobs.tokens * vectors / target.registers,
        vectors,
        passes * knobs.tokens / spec.batch,
        blocks * knobs.rows / spec.rows,
        *_of_jobs(passes * knobs.parts, target),
    ]


def _of_tiles(task: Task, knobs: Tiles, target: Target) -> list[float]:
    spec = task.spec
    density = task.structure.density if task.structure else 1.0
    tiles, vectors = ceil_div(spec.positions, knobs.tile), knobs.tile // target.lanes
    blocks = ceil_div(spec.rows, knobs.rows)
    jobs = spec.batch * tiles * knobs.groups
    panel_bytes = _FLOAT * knobs.panel * knobs.tile / SIZE[spec.dtype]
    strip_bytes = _FLOAT * knobs.panel * knobs.rows * density / SIZE[spec.dtype]  # weights of one block of rows over a panel
    sums_bytes = _FLOAT * spec.rows * knobs.tile if knobs.panel < spec.depth else 0
    return [
        knobs.rows * vectors / target.registers,
        vectors,
        log2(spec.depth / knobs.panel),
        log2(panel_bytes / target.l1_bytes),
        log2(panel_bytes / target.l2_bytes),
        log2(max(strip_bytes, 1) / target.l1_bytes),
        log2(max(sums_bytes, 1) / target.l2_bytes),
        tiles * knobs.tile / spec.positions,
        blocks * knobs.rows / spec.rows,
        *_of_jobs(jobs, target),
    ]


def _of_jobs(jobs: int, target: Target) -> list[float]:
    return [log2(jobs / target.threads), ceil_div(jobs, target.threads) * target.threads / jobs]
