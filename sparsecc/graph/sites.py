"""The kinds of site: the places in a model that passes work on. Hosts find them, passes never match operators.

Sites are values read off a graph at one moment. After `graph.replace` or `graph.set_weight`, ask the graph again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparsecc.formats.base import Packed
from sparsecc.forms import Form, dtype_of
from sparsecc.precisions.base import Quantized

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.attention.base import BlockMap, Grid
    from sparsecc.attention.dynamic import DynamicMap
    from sparsecc.attention.rounding import Precision


@dataclass(frozen=True, kw_only=True)
class Site:
    """name: the module path in the model ("encoder.layer.0.attention.self.query"), the same on both hosts where the file says it."""

    name: str
    handle: Any = field(default=None, repr=False, compare=False)  # the host's own reference to the nodes; passes leave it alone

    @property
    def kind(self) -> str:
        return type(self).__name__


@dataclass(frozen=True, kw_only=True)
class WeightSite(Site):
    """A site with a weight matrix [rows, cols] = [out, in]: what criteria score and formats pack.

    stored: the weight as the host holds it: dense in its own shape, or in a form; not to be modified in place.
    weight_name: the tensor's name in the host (parameter or initializer).
    constant: it was never trained (a buffer in torch, as a mel bank or a blur): passes leave it alone unless `targets` names it.
    """

    stored: Tensor | Form = field(repr=False, compare=False)
    bias: Tensor | None = field(default=None, repr=False, compare=False)
    activation: str | None = None  # relu, gelu, gelu_tanh, silu, hardswish, ...: what alone consumes the output
    weight_name: str = ""
    shared: bool = False  # the same weight tensor serves other sites too (tied): passes refuse to change it
    constant: bool = False

    @property
    def form(self) -> Form | None:
        """The weight when it is not dense."""
        return self.stored if isinstance(self.stored, Form) else None

    @property
    def word(self) -> str:
        """What was done to the weight, in a word."""
        return self.stored.word if isinstance(self.stored, Form) else "dense"

    @property
    def packed(self) -> Packed | None:
        """The weight when it is in a sparse format, and as it was but for that."""
        return self.stored if isinstance(self.stored, Packed) else None

    @property
    def quantized(self) -> Quantized | None:
        """The weight when it is in fewer bits, dense or in a sparse format."""
        return self.stored if isinstance(self.stored, Quantized) else None

    @property
    def dtype(self) -> str:
        """Of `weight`, by numpy's name."""
        return self.stored.dtype if isinstance(self.stored, Form) else dtype_of(self.stored)

    @property
    def zeros(self) -> int:
        """How many of the weights are zero; 0 for a product of factors."""
        nonzeros = self.stored.nonzeros if isinstance(self.stored, Form) else int(self.stored.count_nonzero())
        return 0 if nonzeros is None else self.rows * self.cols - nonzeros

    @property
    def keep(self) -> Tensor | None:
        """bool [rows, cols]: which weights are not zero; None for a product of factors."""
        return self.stored.keep(self.name) if isinstance(self.stored, Form) else self.matrix != 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense weight."""
        return self._held

    @property
    def _held(self) -> tuple[int, ...]:
        """The shape of the dense weight, or of its matrix."""
        return (self.stored.rows, self.stored.cols) if isinstance(self.stored, Form) else tuple(self.stored.shape)

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def cols(self) -> int:
        return math.prod(self.shape[1:])

    @property
    def weight(self) -> Tensor:
        """Dense in its own shape; made anew at each access unless it is stored so. Raises ModelError when what is stored is damaged."""
        return self.from_matrix(self.stored.dense(self.name)) if isinstance(self.stored, Form) else self.stored

    @property
    def matrix(self) -> Tensor:
        """The weight as [rows, cols]."""
        return self.stored.dense(self.name) if isinstance(self.stored, Form) else self.to_matrix(self.stored)

    def to_matrix(self, weight: Tensor) -> Tensor:
        """A weight of this site's shape as [rows, cols]."""
        return weight

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Inverse of `to_matrix`."""
        return matrix


@dataclass(frozen=True, kw_only=True)
class Linear(WeightSite):
    """y[..., out] = x[..., in] Wᵀ + b. weight: [out, in], whatever way round the host stores it."""


@dataclass(frozen=True, kw_only=True)
class Conv2d(WeightSite):
    """weight: [out, in/groups, kh, kw]; its matrix is [out, kh·kw·in/groups] with the input channels innermost,
    so that N:M and 1×c patterns run along channels of one tap (as in NVIDIA's ASP)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        rows, *rest = self._held
        return (rows, math.prod(rest) // math.prod(self.kernel), *self.kernel)

    def to_matrix(self, weight: Tensor) -> Tensor:
        return weight.permute(0, 2, 3, 1).reshape(self.rows, self.cols)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        out, channels, kh, kw = self.shape
        return matrix.reshape(out, kh, kw, channels).permute(0, 3, 1, 2).contiguous()

    def images(self, x: Tensor) -> Tensor:
        """What enters the dense layer, as [(batch,) channels, height, width]."""
        return x


@dataclass(frozen=True, kw_only=True)
class Conv1d(Conv2d):
    """A convolution of images of height 1, whose kernel is (1, k). weight: [out, in/groups, k], matrix: [out, k·in/groups]."""

    @property
    def shape(self) -> tuple[int, ...]:
        rows, *rest = self._held
        return (rows, math.prod(rest) // self.kernel[1], self.kernel[1])

    def to_matrix(self, weight: Tensor) -> Tensor:
        return weight.permute(0, 2, 1).reshape(self.rows, self.cols)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        out, channels, taps = self.shape
        return matrix.reshape(out, taps, channels).permute(0, 2, 1).contiguous()

    def images(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-2)


@dataclass(frozen=True, kw_only=True)
class Attention(Site):
    """softmax(scale · q kᵀ + mask) v, q: [batch, heads, tokens, head_dim].

    tokens, kv_tokens: of q and of k, None where the model leaves them open.  block_map: of what is block-sparse already, a DynamicMap
    where blocks are chosen in each call.  precision: what q, k and v of that are rounded to.
    bound: why `Graph.replace` cannot put another operator here, None when it can.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    causal: bool = False
    has_mask: bool = False
    tokens: int | None = None
    kv_tokens: int | None = None
    block_map: BlockMap | DynamicMap | None = field(default=None, repr=False, compare=False)
    precision: Precision = "float32"
    bound: str | None = None

    @property
    def grid(self) -> Grid | None:
        """Where its tokens lie, if known."""
        return None if self.block_map is None else self.block_map.grid


@dataclass(frozen=True, kw_only=True)
class Mlp(Site):
    """second(activation(first(x))): rows of `first` and columns of `second` are the same neurons."""

    first: Linear
    second: Linear
    activation: str


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """A stored weight that belongs to no site, so that no pass changes it.

    name: the layer's, or the tensor's where no layer has it alone.  kind: what reads it ("Conv3d", "LSTM", "Embedding").
    dtype: numpy's name.  sparsity: the share of zeros in it.  reason: reads after the name, as that of a `Refused`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    sparsity: float
    reason: str


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape counts as a weight: biases, norms and scales are vectors."""
    return sum(size > 1 for size in shape) > 1


def unique(name: str, taken: dict[str, None]) -> str:
    """The name, or name_1, name_2, ... : the first that is free, and no longer is."""
    free = next(candidate for candidate in (name, *(f"{name}_{k}" for k in range(1, len(taken) + 1))) if candidate not in taken)
    taken[free] = None
    return free
