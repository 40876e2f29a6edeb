"""Repeats every pixel of an image in both directions: what resizing by whole numbers to the nearest pixel comes to."""

from dataclasses import dataclass

from sparsecc.codegen.cpu.pieces.rows import copy_row
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class UpsampleSpec:
    """[images, height, width] → [images, height · factor[0], width · factor[1]]"""

    images: int
    height: int
    width: int
    factor: tuple[int, int]


def build(spec: UpsampleSpec, target: Target):
    """PrimFunc(x, y), both flat."""
    images, height, width, (sh, sw), lanes = spec.images, spec.height, spec.width, spec.factor, target.lanes
    size, cols = images * height * width, width * sw

    @T.prim_func
    def upsample(X: T.Buffer((size,), "float32"), Y: T.Buffer((size * sh * sw,), "float32")):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(images * height):
            for c in range(width):
                for k in T.unroll(sw):  # side by side, so that LLVM shuffles whole vectors
                    Y[job * sh * cols + c * sw + k] = X[job * width + c]
            for r in range(sh - 1):
                copy_row(Y, (job * sh + r + 1) * cols, Y, job * sh * cols, cols, lanes)

    return upsample
