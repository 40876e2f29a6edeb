"""What a sparse attention pattern is: from the q, k and v of one site, an order of the tokens and the blocks to compute, per head.

The tokens of an image or video transformer lie on a grid frames × height × width, beside them perhaps text. A head's map is
nearly block diagonal along the right axes and scattered along others, so each head has an order of its own, in which its sequence
is cut into blocks. The tokens of a text lie on a line, and keep their order. Everything here is tensors in, tensors out: it knows no
graph.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.types import Device

M = TypeVar("M")  # a BlockMap, or a DynamicMap where blocks are chosen in each call

BLOCK = 64
AXES = "FHW"
AXIS_ORDERS: tuple[tuple[int, ...], ...] = tuple(itertools.permutations((0, 1, 2)))
"""Orders of the grid's axes, outermost first, by index; 0 is raster order (frames, height, width)."""
ORDER_NAMES = tuple("".join(AXES[axis] for axis in order) for order in AXIS_ORDERS)


class Sample(NamedTuple):
    """What enters an attention in one run, each [batch, heads, tokens, head_dim]; of keys and values perhaps fewer heads, which serve
    several of the queries' each."""

    q: Tensor
    k: Tensor
    v: Tensor


@dataclass(frozen=True)
class Grid:
    """Where the tokens of a sequence lie: frames·height·width of them in raster order, text before or after. Raises ValueError for sizes
    that cannot be."""

    frames: int
    height: int
    width: int
    text_tokens: int = 0
    text_first: bool = True

    def __post_init__(self) -> None:
        if min(self.axes) < 1 or self.text_tokens < 0:
            raise ValueError(f"a grid of {self} cannot be")

    def __str__(self) -> str:
        text = f" and {self.text_tokens} text tokens {'before' if self.text_first else 'after'}" if self.text_tokens else ""
        return f"{'×'.join(map(str, self.axes))}{text}"

    @classmethod
    def line(cls, tokens: int, text_tokens: int = 0, text_first: bool = True) -> Self:
        """Of a sequence that lies on no grid: `tokens` in all, of which the first or the last are `text_tokens`."""
        return cls(1, 1, tokens - text_tokens, text_tokens, text_first)

    @property
    def axes(self) -> tuple[int, int, int]:
        return (self.frames, self.height, self.width)

    @property
    def tokens(self) -> int:
        """All of them, text included."""
        return math.prod(self.axes) + self.text_tokens

    @property
    def text(self) -> slice:
        """The positions of the text, in every order the same."""
        return slice(0, self.text_tokens) if self.text_first else slice(self.tokens - self.text_tokens, self.tokens)

    def blocks(self, block: int) -> int:
        """How many blocks the sequence is cut into; the last may be short."""
        return -(-self.tokens // block)

    def permutation(self, order: int) -> Tensor:
        """int64[tokens]: position in the new sequence → token. Text tokens stay where they are."""
        import torch

        tokens = torch.arange(self.tokens)
        first = self.text_tokens if self.text_first else 0
        video = slice(first, first + math.prod(self.axes))
        tokens[video] = tokens[video].reshape(self.axes).permute(AXIS_ORDERS[order]).reshape(-1)
        return tokens

    def text_blocks(self, block: int) -> Tensor:
        """bool[blocks]: the blocks that hold text."""
        import torch

        is_text = torch.zeros(self.blocks(block) * block, dtype=torch.bool)
        is_text[self.text] = True
        return is_text.reshape(-1, block).any(1)


class Head(NamedTuple):
    """One head of a map, as reports print it. order: of the tokens, "" for the model's.  lost, error: as in `Choice`."""

    order: str
    density: float
    lost: float | None = None
    error: float | None = None


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Which blocks of an attention map are computed, at one site. Raises ValueError for one that is none.

    orders: of the tokens of each head, as uint8[heads] indices into AXIS_ORDERS or as int32[heads, tokens] the token that comes to each
    place; None where all heads have them as the model has.  keep: bool[heads, query_blocks, key_blocks], of the reordered sequence,
    blocks counted from position 0. Blocks that hold text are kept, as row and as column, and no row is empty.
    causal: queries see no later key, of the blocks on the diagonal only a half, and no block above it is kept. No order, then.
    """

    grid: Grid
    block: int
    orders: Tensor | None
    keep: Tensor
    causal: bool = False

    def __post_init__(self) -> None:
        import torch

        blocks = self.grid.blocks(self.block) if self.block > 0 else 0
        heads = len(self.keep) if self.keep.dim() else 0
        if self.orders is not None:
            _require_orders(self.orders, self.grid)
            heads = len(self.orders)
        if not heads or self.keep.dtype != torch.bool or tuple(self.keep.shape) != (heads, blocks, blocks):
            raise ValueError(f"keep is {tuple(self.keep.shape)}, for {self.grid.tokens} tokens it has to be ({heads}, {blocks}, {blocks})")
        if not self.keep.any(2).all():
            raise ValueError("a row of blocks is empty: its queries would see nothing")
        if self.causal and self.orders is not None:
            raise ValueError("causal attention has one order of tokens, the model's")
        if self.causal and not (self.keep.diagonal(dim1=1, dim2=2).all() and torch.equal(self.keep, self.keep.tril())):
            raise ValueError("a causal map keeps its diagonal, and no block above it")
        text = self.grid.text_blocks(self.block).to(self.keep.device)
        needed = computed(text[:, None] | text[None, :], self.causal)
        if not self.keep[:, needed].all():
            raise ValueError("a block that holds text is not kept")

    @property
    def heads(self) -> int:
        return len(self.keep)

    @property
    def full(self) -> Tensor:
        """bool[query_blocks, key_blocks]: what dense attention computes."""
        import torch

        return computed(torch.ones_like(self.keep[0]), self.causal)

    @property
    def density(self) -> float:
        """Share of the blocks that are kept of those that dense attention computes, over all heads."""
        return int(self.keep.count_nonzero()) / (self.heads * int(self.full.count_nonzero()))

    @property
    def dense_heads(self) -> list[int]:
        """The heads that keep every block."""
        return (self.keep == self.full).flatten(1).all(1).nonzero().squeeze(1).tolist()

    @property
    def head_densities(self) -> list[float]:
        """`density` of each head."""
        return (self.keep.flatten(1).sum(1) / self.full.count_nonzero()).tolist()

    def to(self, device: Device) -> BlockMap:
        """On a device."""
        return replace(self, keep=self.keep.to(device), orders=None if self.orders is None else self.orders.to(device))

    def rows(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(head, queries, keys) for each head and block of queries: int64 token numbers in the model's order, and which keys they see,
        of which those that are later than a query are not its own where the map is causal."""
        for head, tokens in enumerate(self.places()):
            parts = tokens.split(self.block)
            for queries, keep in zip(parts, self.keep[head], strict=True):
                seen = keep.repeat_interleave(self.block)[: len(tokens)]
                yield head, queries, tokens[seen]

    def places(self) -> Tensor:
        """int64[heads, tokens]: which token comes to each place of a head's order."""
        import torch

        if self.orders is None:
            return torch.arange(self.grid.tokens, device=self.keep.device).expand(self.heads, -1)
        if self.orders.dim() == 2:
            return self.orders.long()
        return torch.stack([self._permutations[order] for order in self.orders.tolist()])

    def same_as(self, other: object) -> bool:
        """Whether another map computes the same blocks of the same tokens."""
        if not isinstance(other, BlockMap) or (self.grid, self.block, self.causal) != (other.grid, other.block, other.causal):
            return False
        return self.keep.equal(other.keep) and self.places().equal(other.places())

    @cached_property
    def _permutations(self) -> dict[int, Tensor]:
        assert self.orders is not None
        return {order: self.grid.permutation(order).to(self.keep.device) for order in self.orders.unique().tolist()}


def _require_orders(orders: Tensor, grid: Grid) -> None:
    import torch

    if orders.dim() == 2:
        if orders.dtype != torch.int32 or tuple(orders.shape) != (len(orders), grid.tokens) or not len(orders):
            raise ValueError(f"orders of the tokens have to be int32[heads, {grid.tokens}]")
        if not torch.equal(orders.sort(1).values, torch.arange(grid.tokens, dtype=torch.int32, device=orders.device).expand_as(orders)):
            raise ValueError("an order leaves out a token")
        text = torch.arange(grid.tokens, dtype=torch.int32, device=orders.device)[grid.text]
        if not (orders[:, grid.text] == text).all():
            raise ValueError("an order moves the text")
    elif orders.dim() != 1 or not len(orders) or orders.dtype != torch.uint8 or int(orders.max()) >= len(AXIS_ORDERS):
        raise ValueError(f"orders have to be uint8[heads] below {len(AXIS_ORDERS)}")


@dataclass(frozen=True)
class Choice(Generic[M]):
    """A map and what it costs on the calibration samples, per head: float[heads] each, None without samples.

    lost: share of the attention mass outside the kept blocks.  error: ‖o − o'‖ / ‖o‖ of the head's output.  Both as the map was
    chosen: a head that was then put back to dense shows what it would have cost.
    """

    map: M
    lost: Tensor | None = None
    error: Tensor | None = None


@dataclass(frozen=True)
class Asked:
    """What a pattern is asked for, at one site.

    grid: where the tokens lie; a line for a pattern that needs no grid.  heads: of the queries.  density: the share of the blocks that
    each head is to keep, text included; never less than `least_density`.  max_error: a head whose relative output error is above keeps
    every block.  samples: may be none for a pattern that needs none.
    """

    grid: Grid
    heads: int
    scale: float
    density: float
    block: int = BLOCK
    max_error: float | None = None
    causal: bool = False
    samples: Sequence[Sample] = ()

    def of(self, heads: Sequence[int]) -> Asked:
        """The same for some of the heads alone."""
        samples = [Sample(*(x[:, [head * x.shape[1] // self.heads for head in heads]] for x in sample)) for sample in self.samples]
        return replace(self, heads=len(heads), samples=samples)


@dataclass(frozen=True)
class Pattern(ABC):
    """One member of the family; fields are its options. Pure: the same samples give the same map.

    reorders: whether tokens get another order, which causal attention does not allow.  needs_grid: whether it asks where on a grid they
    lie.  needs_samples: whether it asks what enters the attention; where not, samples only tell what its map costs.
    exact_density: whether each head keeps just the share asked for; where not, at most that, unless its options say what it keeps.
    dynamic: whether blocks are chosen in each call, by a rule (`attention.dynamic.DynamicMap`); where not, the map is the same in all.
    stateful: whether what is done in a call depends on how many there were before, so that the model counts them.
    """

    reorders: ClassVar[bool] = True
    needs_grid: ClassVar[bool] = True
    needs_samples: ClassVar[bool] = True
    exact_density: ClassVar[bool] = True
    dynamic: ClassVar[bool] = False
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # options that the laws try

    @classmethod
    def parse(cls, parameters: str) -> Self | None:
        """The member with the options that stand behind its name and a colon in a recipe; None for what it does not read."""
        return None if parameters else cls()

    @property
    def stateful(self) -> bool:
        return False

    @abstractmethod
    def choose(self, asked: Asked) -> Choice[Any]:
        """The map of one site."""

    def ladder(self, asked: Asked, densities: Sequence[float]) -> Sequence[Choice]:
        """`choose` at each of these densities, in place of the one asked for. Members override it where most of the work is the same for
        all."""
        return [self.choose(replace(asked, density=density)) for density in densities]


def required(grid: Grid, block: int, causal: bool = False) -> Tensor:
    """bool[query_blocks, key_blocks]: what every head keeps, text and the diagonal."""
    import torch

    text = grid.text_blocks(block)
    return computed(text[:, None] | text[None, :] | torch.eye(len(text), dtype=torch.bool), causal)


def least_density(grid: Grid, block: int, causal: bool = False) -> float:
    """The share of the blocks that `required` alone takes."""
    keep = required(grid, block, causal)
    return int(keep.count_nonzero()) / int(computed(keep | True, causal).count_nonzero())


def computed(keep: Tensor, causal: bool) -> Tensor:
    """Of bool[query_blocks, key_blocks], what dense attention computes of it."""
    return keep.tril() if causal else keep
