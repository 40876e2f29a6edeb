"""The protocol that both hosts keep, so that every pass is written once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.sites import Attention, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.options import shown

if TYPE_CHECKING:
    import networkx as nx
    from torch import Tensor

    from sparsecc.graph.channels import Channels
    from sparsecc.ops.base import SiteOp
    from sparsecc.ops.block_attention import BlockAttention

S = TypeVar("S", bound=Site)
Targets = tuple[str, ...]
ALL: Targets = ()


def matches(site: Site, targets: Targets) -> bool:
    """Whether a site is meant: by its name, its kind ("Linear"), or a "re:" pattern for its whole name. ALL means every site."""
    return not targets or any(_matches(site, target) for target in targets)


def _matches(site: Site, target: str) -> bool:
    if not target.startswith("re:"):
        return target in (site.name, site.kind)
    try:
        return re.fullmatch(target[3:], site.name) is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(f"targets: {shown(target)} is no regular expression: {error}") from None


@dataclass(frozen=True)
class TensorSpec:
    """A model input or output. A dimension is an int, or a name where it may change from call to call.

    default: what an input is when nobody gives it; None where it has to be given.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str  # numpy's name: float32, int64, bool; "object" for strings, "sequence" for what is no tensor
    default: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Run:
    """outputs: flat, in the model's order.  taps: per site name what entered it: (x,) for weight sites, (q, k, v) for Attention."""

    outputs: tuple[Tensor, ...]
    taps: Mapping[str, tuple[Tensor, ...]]


class Graph(ABC):
    """A model that passes can read and rewrite. notes: what a report says of it as a whole."""

    host: str  # "fx" or "onnx"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        """All sites of a kind (a base class finds its children), in execution order, named uniquely."""

    @abstractmethod
    def unseen(self) -> list[Unseen]:
        """The weights (matrices and more, no vectors) that belong to no site, with the reason: with the sites' own, all of the model."""

    @abstractmethod
    def set_weight(self, site: WeightSite, weight: Tensor) -> None:
        """Store a new dense weight (in the shape of `site.weight`) for a site whose weight is dense."""

    @abstractmethod
    def set_bias(self, site: WeightSite, bias: Tensor) -> None:
        """Store a new bias [out] for a site that has one and whose weight is dense."""

    @abstractmethod
    def source(self, site: Linear) -> Hashable | None:
        """What a dense layer reads: the same for layers that read one value. None where it reads what `gather_inputs` has put before it."""

    @abstractmethod
    def gather_inputs(self, site: Linear, order: Tensor) -> None:
        """Let a dense layer read its inputs in another order, its columns likewise, so that it gives what it gave. Layers that read one
        value in one order share the gather.

        order: int64[cols], which input stands at each place."""

    @abstractmethod
    def replace(self, site: WeightSite | Attention, op: SiteOp | BlockAttention) -> None:
        """Put an operator of the vocabulary in the place of a site: a BlockAttention for an Attention without a mask, a SiteOp for
        any other. The site's activation stays where it was. Raises UserError with `Attention.bound` where that is set."""

    @abstractmethod
    def channels(self, site: Mlp | Attention) -> Channels | Refused:
        """The neurons or heads of a site with the layers that share them; refused where something else depends on how many there are."""

    @abstractmethod
    def narrow(self, site: Mlp | Attention, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Leave out all channels but `units` (int64, ascending), whose `channels` are not refused.

        weight: of the reader, [rows, columns left].  bias: of the reader, None to keep its own.
        """

    @abstractmethod
    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        """Evaluate in the host itself (torch; onnxruntime). inputs: torch or numpy arrays, by position or by name.
        Raises InputError for wrong names, shapes, dtypes, and UserError for a tap that names no site."""

    @abstractmethod
    def as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Per set of inputs, the outputs of the file or module itself, before anything was made of it; not after `forget_file`.
        Raises what `run` raises."""

    @abstractmethod
    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        """Evaluate once on several inputs side by side, and stop before each tapped site: its name and, for each of the inputs, what
        enters it, as in `run`. Weights that are set meanwhile count for everything that is evaluated after that: so a site sees what the
        changed sites before it make of the inputs. The sites come in execution order. Raises what `run` raises."""

    @abstractmethod
    def embeddings(self) -> dict[int, Tensor]:
        """The table [entries, width] that is read at what an input holds, by the place of that input; the first where there are several."""

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """Parameters and buffers, in an order of their own; in ONNX the bytes of the main graph's initializers."""

    @abstractmethod
    def site_graph(self) -> nx.DiGraph:
        """Nodes: site names. Edge a → b: the output of a reaches b through no other weight or attention site."""

    @abstractmethod
    def copy(self) -> Graph:
        """An independent graph; weights are shared until one of them is replaced."""

    def __str__(self) -> str:
        """One line for each site, see `graph.text`."""
        from sparsecc.graph.text import text

        return text(self)

    @property
    def random(self) -> str:
        """An operator that gives other numbers each time, "" where there is none."""
        return ""

    def forget_file(self) -> None:
        """Let go of what is only kept to compare the model with what it was read from."""
        return

    @abstractmethod
    def save(self, path: str | PathLike[str]) -> None:
        """Write the model in the host's own file format, atomically (.pt2 for fx, .onnx for onnx)."""


Given = Mapping[str, "tuple[Tensor, Tensor | None]"]
"""Other weights and biases by the name of a site: a weight in the shape of `site.weight`, a bias, or None for the site's own."""


class Block(ABC):
    """A stretch of a model with what enters it, for several inputs of the model side by side. sites: those with weights, in order."""

    sites: tuple[str, ...]

    @abstractmethod
    def run(self, index: int, given: Given) -> tuple[Tensor, ...]:
        """What leaves it for the index-th input, with gradients, and with other weights and biases."""


class Differentiable(Graph):
    """A graph through which gradients flow, on any device: it runs where its weights lie, inputs are brought there."""

    @abstractmethod
    def to(self, device: str) -> Differentiable:
        """An independent graph with its weights on a device of torch."""

    @abstractmethod
    def copy(self) -> Differentiable: ...

    @abstractmethod
    def run_with(
        self,
        inputs: Sequence[Any] | Mapping[str, Any],
        given: Given,
        taps: Sequence[str] = (),
    ) -> Run:
        """As `run`, with gradients, and with other weights and biases."""

    @abstractmethod
    def blocks(self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]]) -> Iterator[Block]:
        """Evaluate once on several inputs side by side, and stop before each block: the shortest stretch of a few layers that one
        tensor leaves, as half a transformer layer is. Weights that are set meanwhile count for the block itself and all that follow.
        Together the blocks have all sites with weights, in execution order. Raises what `run` raises."""
