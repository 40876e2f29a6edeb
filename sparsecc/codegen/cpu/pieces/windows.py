"""What kernels share that slide a window over each channel by itself: convolutions of one channel a group, and pooling.

Each job copies a band of one channel, padded, to where the L1 holds it, columns of one phase of the stride side by side. Then every tap
of a vector of outputs is one load, and no test of bounds is left.
"""

from dataclasses import dataclass

from sparsecc.codegen.cpu.pieces.rows import Row, pad_row, width_for
from sparsecc.codegen.cpu.target import Target
from sparsecc.codegen.spec import ceil_div
from sparsecc.codegen.tvm_api import T

_VECTORS = 4  # of outputs, whose sums are independent: as many as the latency of a multiply-add


@dataclass(frozen=True)
class Tiling:
    """bands of `height` rows of outputs, the last overlapping; `rows` rows of the image each, `pitch` elements apart in the copy.

    Each row of outputs: `tiles` times `vectors` of `width`, overlapping where they do not fit.
    """

    bands: int
    height: int
    rows: int
    pitch: int
    width: int
    vectors: int
    tiles: int

    def column(self, tile, vector, out_width):
        """Where in its row of outputs a vector begins."""
        return T.min((tile * self.vectors + vector) * self.width, out_width - self.width)


@dataclass(frozen=True)
class Windows:
    """[images, height, width] → [images, out_height, out_width]. padding: top, left; what is missing below and to the right is padded.

    row_pitch, image_pitch: elements from one row and image of the input to the next.
    """

    images: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    row_pitch: int = 0
    image_pitch: int = 0

    def __post_init__(self) -> None:
        """Without pitches, rows and images lie one behind the other."""
        object.__setattr__(self, "row_pitch", self.row_pitch or self.width)
        object.__setattr__(self, "image_pitch", self.image_pitch or self.height * self.row_pitch)

    @property
    def x_size(self) -> int:
        return self.images * self.image_pitch

    @property
    def row(self) -> Row:
        """Of the copied band."""
        cols = self.out_width + (self.kernel[1] - 1) * self.dilation[1] // self.stride[1]
        return Row(self.width, cols, self.padding[1], self.stride[1])

    def rows_for(self, outputs: int) -> int:
        """Rows of the image that as many rows of outputs read."""
        return (outputs - 1) * self.stride[0] + (self.kernel[0] - 1) * self.dilation[0] + 1

    def tap(self, tiling, r, i, j):
        """Where in the copy the inputs begin that tap (i, j) of the r-th row of outputs reads."""
        (sh, sw), (dh, dw) = self.stride, self.dilation
        return (r * sh + i * dh) * tiling.pitch + j * dw % sw * self.row.cols + j * dw // sw

    def tiling(self, target: Target) -> Tiling:
        pitch = self.stride[1] * self.row.cols
        room = 3 * target.l1_bytes // 4 // (4 * pitch) - self.rows_for(1)
        bands = ceil_div(self.out_height, max(room // self.stride[0] + 1, 1))
        height = ceil_div(self.out_height, bands)
        width = width_for(self.out_width, target.lanes)
        vectors = min(_VECTORS, ceil_div(self.out_width, width))
        return Tiling(bands, height, self.rows_for(height), pitch, width, vectors, ceil_div(self.out_width, vectors * width))


@T.inline
def copy_band(band, x, image, first, windows, rows, filling, lanes):
    """The rows of an image from `first` on, which may be outside, into `band`."""
    for r in range(rows):
        for j in T.unroll(windows.stride[1]):
            pad_row(
                band,
                (r * windows.stride[1] + j) * windows.row.cols,
                x,
                image * windows.image_pitch + (first + r) * windows.row_pitch,
                first + r >= 0 and first + r < windows.height,
                j,
                windows.row,
                filling,
                lanes,
            )
