"""What a sparse attention pattern is: from the q, k and v of one site, an order of the tokens and the blocks to compute, per head.

The tokens of an image or video transformer lie on a grid frames × height × width, beside them perhaps text. A head's map is
nearly block diagonal along the right axes and scattered along others, so each head has an order of its own, in which its sequence
is cut into blocks. Everything here is tensors in, tensors out: it knows no graph.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64
AXES = "FHW"
AXIS_ORDERS: tuple[tuple[int, ...], ...] = tuple(itertools.permutations((0, 1, 2)))
"""Orders of the grid's axes, outermost first, by index; 0 is raster order (frames, height, width)."""
ORDER_NAMES = tuple("".join(AXES[axis] for axis in order) for order in AXIS_ORDERS)


class Sample(NamedTuple):
    """What enters an attention in one run, each [batch, heads, tokens, head_dim]."""

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


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Which blocks of an attention map are computed, at one site. Raises ValueError for one that is none.

    orders: uint8[heads], indices into AXIS_ORDERS.  keep: bool[heads, query_blocks, key_blocks], of the reordered sequence, blocks
    counted from position 0. Blocks that hold text are kept, as row and as column, and no row is empty.
    """

    grid: Grid
    block: int
    orders: Tensor
    keep: Tensor

    def __post_init__(self) -> None:
        import torch

        blocks = self.grid.blocks(self.block) if self.block > 0 else 0
        heads = len(self.orders) if self.orders.dim() == 1 else 0
        if not heads or self.orders.dtype != torch.uint8 or int(self.orders.max()) >= len(AXIS_ORDERS):
            raise ValueError(f"orders have to be uint8[heads] below {len(AXIS_ORDERS)}")
        if self.keep.dtype != torch.bool or tuple(self.keep.shape) != (heads, blocks, blocks):
            raise ValueError(f"keep is {tuple(self.keep.shape)}, for {self.grid.tokens} tokens it has to be ({heads}, {blocks}, {blocks})")
        if not self.keep.any(2).all():
            raise ValueError("a row of blocks is empty: its queries would see nothing")
        text = self.grid.text_blocks(self.block).to(self.keep.device)
        if not (self.keep[:, text].all() and self.keep[:, :, text].all()):
            raise ValueError("a block that holds text is not kept")

    @property
    def heads(self) -> int:
        return len(self.orders)

    @property
    def density(self) -> float:
        """Share of the blocks that are kept, over all heads."""
        return int(self.keep.count_nonzero()) / self.keep.numel()

    @property
    def dense_heads(self) -> list[int]:
        """The heads that keep every block."""
        return self.keep.flatten(1).all(1).nonzero().squeeze(1).tolist()

    def rows(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(head, queries, keys) for each head and block of queries: int64 token numbers in the model's order, and which keys they see."""
        for head in range(self.heads):
            tokens = self._permutations[int(self.orders[head])]
            parts = tokens.split(self.block)
            for queries, keep in zip(parts, self.keep[head], strict=True):
                seen = keep.repeat_interleave(self.block)[: len(tokens)]
                yield head, queries, tokens[seen]

    @cached_property
    def _permutations(self) -> dict[int, Tensor]:
        return {order: self.grid.permutation(order).to(self.keep.device) for order in self.orders.unique().tolist()}


@dataclass(frozen=True)
class Choice:
    """A map and what it costs on the calibration samples, per head: float[heads] each.

    lost: share of the attention mass outside the kept blocks.  error: ‖o − o'‖ / ‖o‖ of the head's output.  Both as the map was
    chosen: a head that was then put back to dense shows what it would have cost.
    """

    map: BlockMap
    lost: Tensor
    error: Tensor


@dataclass(frozen=True)
class Pattern(ABC):
    """One member of the family; fields are its options. Pure: the same samples give the same map."""

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # options that the laws try

    @abstractmethod
    def choose(
        self, samples: Sequence[Sample], grid: Grid, scale: float, density: float, block: int = BLOCK, max_error: float | None = None
    ) -> Choice:
        """The map of one site. density: share of all blocks that each head keeps, text included; never less than `least_density`.
        max_error: a head whose relative output error is above keeps every block."""


def required(grid: Grid, block: int) -> Tensor:
    """bool[query_blocks, key_blocks]: what every head keeps, text and the diagonal."""
    import torch

    text = grid.text_blocks(block)
    return text[:, None] | text[None, :] | torch.eye(len(text), dtype=torch.bool)


def least_density(grid: Grid, block: int) -> float:
    """The share of the blocks that `required` alone takes."""
    keep = required(grid, block)
    return int(keep.count_nonzero()) / keep.numel()


def pack_bits(keep: Tensor) -> Tensor:
    """bool[..., n] → uint8[..., ⌈n/8⌉], the first in the lowest bit."""
    import numpy as np
    import torch

    return torch.from_numpy(np.packbits(keep.cpu().numpy(), axis=-1, bitorder="little"))


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """Inverse of `pack_bits`, to bool[..., count]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), axis=-1, count=count, bitorder="little").astype(bool))
