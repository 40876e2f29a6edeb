"""What a generated matrix kernel computes (MatmulSpec) and how it goes about it (Knobs): chosen apart, printed, stored.

All of them compute, with positions (tokens or pixels) innermost, so that one vector register holds one input of many positions:

    Y[b, o, n] = epilogue( bias[o] + Σ_tap Σ_c W[o, tap, c] · X[b, c·channel_stride + taps[tap] + n] )

A linear layer has one tap and channel_stride = positions. A convolution reads a padded image: its taps are offsets into
it, so no im2col is made. Weights of a convolution are ordered (tap, channel), as `graph.sites.Conv2d.matrix` has them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsecc.codegen.cpu.pieces import groups, math
from sparsecc.codegen.tvm_api import T

Expr = Any


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored: activation, scale and shift, and a residual before or after all of that."""

    activation: str | None = None
    residual: bool = False
    residual_first: bool = False  # activation(sum + residual) instead of activation(sum) + residual
    scale: float = 1.0  # of the activation, as networks have it that learn a hardswish's slope
    shift: float = 0.0

    def apply(self, total: Expr, residual: Callable[[], Expr]) -> Expr:
        """The expression to store. `residual()` reads the matching element; it is called only when there is one."""
        if self.residual and self.residual_first:
            total = total + residual()
        if self.activation is not None:
            total = math.ACTIVATIONS[self.activation](total)
        if (self.scale, self.shift) != (1.0, 0.0):
            total = total * T.float32(self.scale) + T.float32(self.shift)
        if self.residual and not self.residual_first:
            total = total + residual()
        return total

    def __str__(self) -> str:
        scaled = f"·{self.scale:g}{self.shift:+g}" if (self.scale, self.shift) != (1.0, 0.0) else ""
        parts = [(self.activation or "") + scaled, "residual" if self.residual else ""]
        return "+".join(part for part in (parts[::-1] if self.residual_first else parts) if part) or "none"


@dataclass(frozen=True)
class MatmulSpec:
    """batch × positions outputs for each of `rows`. depth = taps × channels inputs each.

    X: [batch, channels, channel_stride].  Y: [batch, rows, y_pitch], of which the first `positions` of each row are written.
    taps: offsets in elements, such that channel_stride ≥ max(taps) + positions.
    dtype: of what is multiplied; X of a narrow one is int32 [batch, groups of channels, channel_stride], see `groups`.
    """

    rows: int
    channels: int
    batch: int
    positions: int
    channel_stride: int
    y_pitch: int
    taps: tuple[int, ...] = (0,)
    epilogue: Epilogue = Epilogue()
    dtype: str = "float32"

    @property
    def depth(self) -> int:
        return len(self.taps) * self.channels

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return self.batch, self.channel_groups, self.channel_stride

    @property
    def channel_groups(self) -> int:
        """Rows of X: narrow channels lie in groups."""
        return ceil_div(self.channels, groups.SIZE[self.dtype])

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.batch, self.rows, self.y_pitch

    @property
    def flops(self) -> int:
        """Of the dense product."""
        return 2 * self.rows * self.depth * self.batch * self.positions

    @property
    def weight_bytes(self) -> int:
        """Of the dense weight."""
        return 4 * self.rows * len(self.taps) * self.channel_groups

    @property
    def few(self) -> bool:
        """Whether tokens lie as a model has them, [tokens, features, 1]: what `matvec` kernels take, and no other."""
        return self.taps == (0,) and self.positions == self.channel_stride == self.y_pitch == 1

    def in_tile(self, lanes: int) -> MatmulSpec:
        """The same for few tokens in the lanes of one tile."""
        tile = ceil_div(self.batch, lanes) * lanes
        return MatmulSpec.linear(self.rows, self.channels, 1, tile, self.epilogue, self.dtype)

    @staticmethod
    def linear(rows: int, cols: int, tiles: int, tile: int, epilogue: Epilogue = Epilogue(), dtype: str = "float32") -> MatmulSpec:
        """A linear layer over tokens stored as [tiles, features, tile]."""
        return MatmulSpec(rows, cols, tiles, tile, tile, tile, epilogue=epilogue, dtype=dtype)


@dataclass(frozen=True)
class Knobs:
    """tile: positions per inner kernel, a multiple of the vector width.  rows: outputs that share each load of X.
    panel: inputs whose X stays in cache while all rows pass over it (a divisor of the depth, see `panel_of`).
    groups: parts that the rows are divided into, so that every thread has work. A thread takes all positions through a part before it
    goes on to the next: the part's weights stay in its cache."""

    tile: int
    rows: int
    panel: int
    groups: int


_PANEL = 64  # inputs: the narrowest panel that a search tries
_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16)
_MANY_JOBS = 16  # of a thread, of which one more is little


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def tile_for(positions: int, lanes: int, most: int) -> int:
    """The tile that wastes least: tiles overlap at the end, so `positions` may be no multiple. Ties go to the larger tile."""
    candidates = [t for t in range(most, 0, -lanes) if t <= positions] or [lanes]
    return min(candidates, key=lambda t: (ceil_div(positions, t) * t, -t))


def groups_for(jobs: int, threads: int, row_blocks: int) -> int:
    """Smallest division of the rows with which every thread gets the same number of jobs, or so many that one more is little."""
    groups = 1
    while (jobs * groups) % threads and jobs * groups < _MANY_JOBS * threads and groups < row_blocks:
        groups += 1
    return groups


def makespan(jobs: int, threads: int) -> int:
    """Jobs of the thread that has most, times the threads."""
    return ceil_div(jobs, threads) * threads


def widened(first: list[Knobs], spec: MatmulSpec, tiles: dict[int, list[int]]) -> list[Knobs]:
    """The guesses, then everything that a search may try besides. tiles: rows to try with each tile."""
    panels = dict.fromkeys(
        panel_of(spec, most) for most in (spec.depth, *(_PANEL << i for i in range(6)), *(3 * _PANEL << i for i in range(4)))
    )
    found = [
        Knobs(tile, rows, panel, groups)
        for tile, every in tiles.items()
        for rows in every
        for panel in panels
        for groups in _GROUPS
        if groups <= ceil_div(spec.rows, rows)
    ]
    return list(dict.fromkeys([*first, *found]))


def panel_of(spec: MatmulSpec, most: int) -> int:
    """The largest panel of at most `most` inputs: whole taps when a tap is smaller, otherwise an equal part of one tap's channels."""
    if spec.channels > most:
        return max(d for d in range(1, most + 1) if spec.channels % d == 0)
    return spec.channels * max(d for d in _divisors(len(spec.taps)) if d == 1 or d * spec.channels <= most)


def panel_within(spec: MatmulSpec, tile: int, size: int) -> int:
    """The largest panel whose part of X takes at most `size` bytes, or one tap of one channel. Neighbouring taps read the same elements."""

    def elements(taps: int) -> int:
        """That some taps of one channel read."""
        spans = [max(part) - min(part) for part in (spec.taps[at : at + taps] for at in range(0, len(spec.taps), taps))]
        return min(taps * tile, max(spans) + tile)

    whole = [taps for taps in _divisors(len(spec.taps)) if 4 * spec.channels * elements(taps) <= size]
    return spec.channels * max(whole) if whole else panel_of(spec, max(size // (4 * tile), 1))


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
