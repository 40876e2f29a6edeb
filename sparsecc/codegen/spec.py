"""What a generated matrix kernel computes, whatever the backend. How it goes about it are its `Knobs`, chosen apart.

All of them compute, with positions (tokens or pixels) innermost, so that one vector register holds one input of many positions:

    Y[b, o, n] = epilogue( bias[o] + Σ_tap Σ_c W[o, tap, c] · X[b, c·channel_stride + taps[tap] + n] )

A linear layer has one tap and channel_stride = positions. A convolution reads a padded image: its taps are offsets into
it, so no im2col is made. Weights of a convolution are ordered (tap, channel), as `graph.sites.Conv2d.matrix` has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparsecc.codegen.numbers import SIZE

ACTIVATIONS = frozenset({"relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "hardsigmoid", "hardswish", "relu6"})


@dataclass(frozen=True)
class Epilogue:
    """What happens to a sum before it is stored: activation, scale and shift, and a residual before or after all of that."""

    activation: str | None = None
    residual: bool = False
    residual_first: bool = False  # activation(sum + residual) instead of activation(sum) + residual
    scale: float = 1.0  # of the activation, as networks have it that learn a hardswish's slope
    shift: float = 0.0

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
        return ceil_div(self.channels, SIZE[self.dtype])

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


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
