"""Max pooling of images: outputs of one row in the vector lanes, the window over a padded band in the L1."""

from sparsecc.codegen.cpu.pieces.windows import Windows, copy_band
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.tvm_api import T


def build(windows: Windows, target: Target):
    """PrimFunc(x, filling, y), x and y flat. filling: [1], what is outside of the image: less than anything in it."""
    tiling, lanes = windows.tiling(target), target.lanes
    (kh, kw), sh, top = windows.kernel, windows.stride[0], windows.padding[0]
    height, width, vectors, pitch = tiling.height, tiling.width, tiling.vectors, tiling.pitch
    out_height, out_width = windows.out_height, windows.out_width

    @T.prim_func
    def max_pool(
        X: T.Buffer((windows.x_size,), "float32"),
        F: T.Buffer((1,), "float32"),
        Y: T.Buffer((windows.images * out_height * out_width,), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for job in T.parallel(windows.images * tiling.bands):
            band = T.alloc_buffer((tiling.rows * pitch,), "float32")
            acc = T.alloc_local((vectors * width,), "float32")
            image: T.let = job // tiling.bands
            first: T.let = T.min(job % tiling.bands * height, out_height - height)
            copy_band(band, X, image, first * sh - top, windows, tiling.rows, F[0], lanes)
            for r in range(height):
                for t in range(tiling.tiles):
                    for v in T.unroll(vectors):
                        for l in T.vectorized(width):
                            acc[v * width + l] = F[0]
                    for i in T.unroll(kh):
                        for j in T.unroll(kw):
                            for v in T.unroll(vectors):
                                for l in T.vectorized(width):
                                    acc[v * width + l] = T.max(
                                        acc[v * width + l],
                                        band[windows.tap(tiling, r, i, j) + tiling.column(t, v, out_width) + l],
                                    )
                    for v in T.unroll(vectors):
                        for l in T.vectorized(width):
                            Y[(image * out_height + first + r) * out_width + tiling.column(t, v, out_width) + l] = acc[v * width + l]

    return max_pool
