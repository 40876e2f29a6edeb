"""Convolutions in which every channel is a group of its own: outputs of one row in the vector lanes, the padded band in the L1."""

from dataclasses import dataclass

from sparsecc.codegen.cpu.pieces.epilogue import apply
from sparsecc.codegen.cpu.pieces.windows import Windows, copy_band
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import Epilogue
from sparsecc.codegen.tvm_api import T


@dataclass(frozen=True)
class DepthwiseSpec:
    """windows: images = batch × channels."""

    windows: Windows
    channels: int
    epilogue: Epilogue


def build(spec: DepthwiseSpec, target: Target):
    """PrimFunc(x, W, bias, residual, y), all but W [channels, kh, kw] and bias [channels] flat.

    `residual` is like y, or the bias again when the epilogue has none.
    """
    windows, tiling, epilogue, channels, lanes = spec.windows, spec.windows.tiling(target), spec.epilogue, spec.channels, target.lanes
    (kh, kw), sh, top = windows.kernel, windows.stride[0], windows.padding[0]
    height, width, vectors, pitch = tiling.height, tiling.width, tiling.vectors, tiling.pitch
    out_height, out_width = windows.out_height, windows.out_width
    y_size = windows.images * out_height * out_width

    @T.prim_func
    def depthwise_conv(
        X: T.Buffer((windows.x_size,), "float32"),
        W: T.Buffer((channels, kh, kw), "float32"),
        B: T.Buffer((channels,), "float32"),
        R: T.Buffer((y_size if epilogue.residual else channels,), "float32"),
        Y: T.Buffer((y_size,), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(windows.images * tiling.bands):
            band = T.alloc_buffer((tiling.rows * pitch,), "float32")
            acc = T.alloc_local((vectors * width,), "float32")
            image: T.let = job // tiling.bands
            c: T.let = image % channels
            first: T.let = T.min(job % tiling.bands * height, out_height - height)
            copy_band(band, X, image, first * sh - top, windows, tiling.rows, T.float32(0), lanes)
            for r in range(height):
                for t in range(tiling.tiles):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(width):
                            acc[v * width + l] = B[c]
                    for i in T.unroll(kh):
                        for j in T.unroll(kw):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(width):
                                    acc[v * width + l] = (
                                        acc[v * width + l]
                                        + W[c, i, j] * band[windows.tap(tiling, r, i, j) + tiling.column(t, v, out_width) + l]
                                    )
                    for v in T.unroll(vectors):
                        for l in T.vectorized(width):
                            Y[(image * out_height + first + r) * out_width + tiling.column(t, v, out_width) + l] = apply(
                                epilogue,
                                acc[v * width + l],
                                lambda: R[(image * out_height + first + r) * out_width + tiling.column(t, v, out_width) + l],
                            )

    return depthwise_conv
