"""Twenty kernel specs that no rule for default knobs was written with: shapes that none of the models here has.

Each is a layer as a model would have it, so that its spec is the one that `compile` makes of it: tokens in tiles, few tokens as they are,
pixels in padded planes. Weights are random, and so are the places of their zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsecc.codegen.cpu.convolve import plane_of
from sparsecc.codegen.cpu.layout import layout_of
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.recognize.program import Geometry
from sparsecc.codegen.spec import MatmulSpec
from sparsecc.codegen.task import Task

Block = tuple[int, int]  # rows × inputs that are zero together


@dataclass(frozen=True)
class Linear:
    """A layer of rows × cols on tokens."""

    rows: int
    cols: int
    tokens: int

    def spec(self, dtype: str, target: Target) -> MatmulSpec:
        layout = layout_of((1, self.tokens, self.cols), target.lanes)
        return MatmulSpec.linear(self.rows, self.cols, layout.tiles, layout.tile, dtype=dtype)

    def __str__(self) -> str:
        return f"{self.rows}×{self.cols} on {self.tokens} token{'s' if self.tokens > 1 else ''}"


@dataclass(frozen=True)
class Conv:
    """A convolution with 3×3 taps and a border of one pixel, on one square image."""

    rows: int
    channels: int
    side: int

    def spec(self, dtype: str, target: Target) -> MatmulSpec:
        image = (self.side, self.side)
        plane = plane_of(Geometry((3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), image, image, target.lanes)
        return MatmulSpec(self.rows, self.channels, 1, plane.positions, plane.size, plane.pitch, plane.taps, dtype=dtype)

    def __str__(self) -> str:
        return f"{self.rows}×{self.channels}×3×3 on {self.side}×{self.side} pixels"


@dataclass(frozen=True)
class Subject:
    """A layer on a kernel. zeros: share of the weights, in blocks or, as N:M, so many of every four inputs.  pattern: as tables name it."""

    kernel: str
    layer: Linear | Conv
    dtype: str = "float32"
    pattern: str = "dense"
    zeros: float = 0.0

    @property
    def name(self) -> str:
        share = f" {self.zeros:.0%}" if self.pattern not in ("dense", "2:4") else ""
        return f"{self.pattern}{share} {self.dtype} {self.layer}"

    def task(self, folder: Path, target: Target) -> tuple[Task, Path | None]:
        """The task and, where its time depends on the weight, the weight as .npy in the folder."""
        spec = self.layer.spec(self.dtype, target)
        if self.pattern == "dense":
            return Task(self.kernel, spec), None
        rng = np.random.default_rng([self.layer.rows, spec.depth])
        matrix = rng.standard_normal((spec.rows, spec.depth), np.float32)
        if self.dtype == "int8":
            matrix = (32 * matrix).clip(-127, 127).astype(np.int8)
            matrix[matrix == 0] = 1
        matrix *= self._mask(spec, rng)
        structure = Task(self.kernel, spec).row(target).structure
        zeros = None if structure is None else structure(matrix, self.dtype, target)
        assert zeros is not None, f"{self.kernel} does not store {self.pattern}"
        path = folder / f"{self.kernel}-{spec.rows}x{spec.depth}-{self.dtype}-{self.pattern.replace(':', 'of')}.npy"
        np.save(path, matrix)
        return Task(self.kernel, spec, zeros), path

    def _mask(self, spec: MatmulSpec, rng: np.random.Generator) -> np.ndarray:
        if self.pattern == "2:4":
            places = rng.random((spec.rows, spec.depth // 4, 4)).argsort(axis=2)
            return (places < 2).reshape(spec.rows, spec.depth)
        high, wide = _BLOCKS[self.pattern]
        shape = spec.rows // high, spec.depth // wide
        kept = np.zeros(shape[0] * shape[1], bool)
        kept[rng.permutation(kept.size)[: round((1 - self.zeros) * kept.size)]] = True
        return kept.reshape(shape).repeat(high, axis=0).repeat(wide, axis=1)


_BLOCKS: dict[str, Block] = {"unstructured": (1, 1), "4x1": (4, 1), "1x4": (1, 4), "1x2": (1, 2), "16x1": (16, 1)}

ASIDE: Sequence[Subject] = (
    Subject("dense_matmul", Linear(640, 1920, 192)),
    Subject("dense_matmul", Linear(1000, 512, 80)),
    Subject("dense_matmul", Conv(160, 80, 28)),
    Subject("dense_matmul", Conv(48, 224, 14)),
    Subject("dense_group_matmul", Linear(1152, 288, 112), "int8"),
    Subject("dense_group_matmul", Conv(96, 96, 20), "int8"),
    Subject("dense_group_matmul", Linear(896, 896, 160), "bfloat16"),
    Subject("sparse_group_matmul", Linear(576, 1536, 192), "int8", "1x4", 0.6),
    Subject("sparse_group_matmul", Linear(1024, 640, 224), "int8", "1x4", 0.8),
    Subject("sparse_group_matmul", Linear(768, 1280, 96), "bfloat16", "1x2", 0.6),
    Subject("row_block_spmm", Linear(640, 640, 160), "float32", "unstructured", 0.8),
    Subject("row_block_spmm", Linear(1536, 448, 224), "float32", "unstructured", 0.9),
    Subject("row_block_spmm", Conv(128, 48, 24), "float32", "unstructured", 0.85),
    Subject("row_block_spmm", Linear(960, 960, 144), "float32", "4x1", 0.6),
    Subject("row_block_spmm", Linear(320, 1280, 256), "float32", "4x1", 0.85),
    Subject("row_block_spmm", Conv(112, 112, 32), "float32", "4x1", 0.7),
    Subject("dense_matvec", Linear(1280, 896, 1)),
    Subject("dense_group_matvec", Linear(1600, 1600, 3), "int8"),
    Subject("nm_matvec", Linear(1920, 640, 2), "float32", "2:4", 0.5),
    Subject("row_block_matvec", Linear(1024, 1536, 4), "float32", "16x1", 0.6),
)
