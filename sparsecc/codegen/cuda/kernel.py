"""Kernels of linear layers on CUDA devices: each is a file in `kernels/` that ends in its row, `KERNEL`.

    Y = activation(X Wᵀ + bias) + residual

X [tokens, depth], W [rows, depth], Y and residual [tokens, rows]. In a gated layer (SwiGLU) W holds the gate's rows and then as many of the
other factor's, and Y [tokens, rows / 2] = activation(gate) · other + residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsecc.codegen.cuda.arch import Arch
from sparsecc.codegen.cuda.driver import Geometry

if TYPE_CHECKING:
    from torch import Tensor

ACTIVATIONS = ("", "relu", "silu", "gelu", "gelu_tanh")


@dataclass(frozen=True)
class LinearSpec:
    """form: how the weight is stored, one of the kernel's `forms`.  rows, depth: of W.  tokens: at most, one of the kernel's buckets.
    dtype: of X, Y, bias and residual; sums are float32."""

    form: str
    rows: int
    depth: int
    tokens: int
    dtype: str = "bfloat16"
    bias: bool = False
    activation: str = ""
    gated: bool = False
    residual: bool = False

    @property
    def outputs(self) -> int:
        return self.rows // 2 if self.gated else self.rows

    @property
    def name(self) -> str:
        return f"{self.form} {self.rows}x{self.depth}"


@dataclass(frozen=True)
class AttentionSpec:
    """Attention of few queries. batch, heads, queries, head_dim: of Q [batch, heads, queries, head_dim].  kv_heads, keys: of K and V
    [batch, kv_heads, keys, head_dim].  scale: of scores.  masked: whether there is a mask bool[queries, keys] of the keys that are seen."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    scale: float
    dtype: str = "bfloat16"
    masked: bool = False

    @property
    def rows(self) -> int:
        """Queries of one head of keys."""
        return self.heads // self.kv_heads * self.queries

    @property
    def form(self) -> str:
        return f"attention {self.heads}/{self.kv_heads} heads of {self.head_dim}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.keys

    @property
    def tokens(self) -> int:
        return self.queries

    @property
    def name(self) -> str:
        return f"{self.form} on {self.keys}"


@dataclass(frozen=True)
class BlockAttentionSpec:
    """Attention of which some blocks of queries and keys are computed. batch, heads, tokens, head_dim: of Q [batch, heads, tokens,
    head_dim].  kv_heads: of K and V, which are as long.  block: queries, and keys, of a block.  causal: a block on the diagonal is computed
    up to it.  ordered: whether tokens have other orders than the model's.  tokens_first: which of Q, K and V lie as [batch, tokens, heads,
    head_dim], as projections write them.  masked: whether keys are hidden from all queries, as padding is.  int8: whether Q and K are
    rounded to int8, with one step for each block of tokens in the order of the head, and multiplied so."""

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    head_dim: int
    scale: float
    block: int
    dtype: str = "bfloat16"
    causal: bool = False
    ordered: bool = False
    tokens_first: str = ""
    masked: bool = False
    int8: bool = False

    @property
    def form(self) -> str:
        return f"block attention {self.heads}/{self.kv_heads} heads of {self.head_dim}"

    @property
    def name(self) -> str:
        return f"{self.form} on {self.tokens}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.tokens, self.tokens


@dataclass(frozen=True)
class NormSpec:
    """Root mean square norm of X [rows, depth], times G [depth]."""

    rows: int
    depth: int
    eps: float
    dtype: str = "bfloat16"

    @property
    def form(self) -> str:
        return "rms norm"

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.depth

    @property
    def tokens(self) -> int:
        return self.rows

    @property
    def name(self) -> str:
        return f"{self.form} {self.rows}x{self.depth}"


@dataclass(frozen=True)
class Weights:
    """numbers: [rows, depth], of the spec's dtype, or int8 or float8 where the form has narrow numbers.  scales: float32 [rows, groups]
    that narrow numbers are multiplied by.  zeros: int8 [rows, groups] that are subtracted from them before."""

    numbers: Tensor
    scales: Tensor | None = None
    zeros: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """Of a packed weight. dtype: torch's name.  shape: with -1 where it depends on the numbers."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """What is to be known about a kernel.

    forms: of weights that it multiplies.  tokens: its buckets, ascending.
    space(spec, arch): the knobs to choose from, the best guess first; none where the architecture or the shape is not for it.
    parts(spec): what a packed weight consists of, by the names of the parameters; only the last one's size may depend on the numbers.
    prepare(weights, spec): the weights as all knobs read them, by these names; on the device where they are.
    unpack(parts, spec): its inverse, exact.
    build(spec, knobs, arch): PrimFunc whose buffers are named X, Y, tokens, and where the spec has them bias and residual (`B`, `R`),
    besides those of `prepare`.
    geometry(spec, knobs, arch): how it is launched.  any_tokens: code for the largest bucket is right for more tokens, too.
    expand: the file of the kernel that unpacks: its build(spec, arch) is a PrimFunc of what `prepare` gives and of D [rows, depth], its
    geometry(spec, arch) how that is launched.
    """

    forms: tuple[str, ...]
    tokens: tuple[int, ...]
    knobs: type[Any]
    parts: Callable[[LinearSpec], dict[str, Part]]
    space: Callable[[LinearSpec, Arch], list[Any]]
    prepare: Callable[[Weights, LinearSpec], dict[str, Tensor]]
    unpack: Callable[[dict[str, Tensor], LinearSpec], Weights]
    build: Callable[[LinearSpec, Any, Arch], Any]
    geometry: Callable[[LinearSpec, Any, Arch], Geometry]
    expand: str
    any_tokens: bool = False
