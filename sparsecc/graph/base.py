"""The protocol that both hosts keep, so that every pass is written once."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar

from sparsecc.errors import RecipeError, Refused, UserError
from sparsecc.graph.fits import misfit, misfit_of_order, misfit_of_rest
from sparsecc.graph.sites import Attention, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.options import shown
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    import networkx as nx
    from torch import Tensor

    from sparsecc.graph.channels import Channels
    from sparsecc.ops.base import Operator

S = TypeVar("S", bound=Site)
W = TypeVar("W", bound=WeightSite)
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
    """A model that passes can read and rewrite. The protocol checks what it is asked, so that all hosts refuse alike: they only do it.

    A site is meant by its name, whichever copy of the graph it was read from: what is checked and changed is the site as it is now. Whoever
    names a site that the graph does not have gets a UserError with the nearest name.

    A weight or bias that several readers share stays theirs: the site that is changed or replaced gets its own, and nothing else
    changes. So a pass changes the layer that it has looked at, and no other (passes leave shared weights alone: they would not be shared
    any more).
    """

    host: str  # "fx" or "onnx", for texts
    where: str  # how errors call the model
    structure: Any = None  # how flat outputs make up what the model returns, see `runtime.structure`; None: they are what it returns
    notes: tuple[str, ...] = ()  # what a report says of the model as a whole
    came: Any = None  # the file, module or program as it came, until `forget_file`
    chooses_blocks: bool = True  # whether there is an operator for attention whose blocks are chosen in each call
    quantizes_only_float32: bool = False  # whether layers in another float type cannot be quantized in this host

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @abstractmethod
    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        """All sites of a kind (a base class finds its children), in execution order, named uniquely. Raises RecipeError for a target that
        is no regular expression."""

    def now(self, site: Site) -> Site:
        """The site of that name as it is in this graph now. Raises UserError where there is none."""
        found = self._now(site)
        if found is None:
            raise self._unknown(site.name)
        return found

    @abstractmethod
    def _now(self, site: Site) -> Site | None: ...

    def _unknown(self, name: str) -> UserError:
        return UserError(f"no site {name!r} in {self.where}{did_you_mean(name, [site.name for site in self.sites()])}")

    @abstractmethod
    def unseen(self) -> list[Unseen]:
        """The weights (matrices and more, no vectors) that belong to no site, with the reason: with the sites' own, all of the model."""

    def set_weight(self, site: WeightSite, weight: Tensor) -> None:
        """Store a new dense weight (in the shape of `site.weight`, in any dtype: the layer keeps its own).

        Raises UserError for a site whose weight is not dense (any more), and for another shape than it has.
        """
        layer = self._dense(site, WeightSite)
        if tuple(weight.shape) != layer.shape:
            raise UserError(f"layer '{layer.name}': the new weight has shape {tuple(weight.shape)}, it needs {layer.shape}")
        self._set_weight(layer, weight)

    @abstractmethod
    def _set_weight(self, site: WeightSite, weight: Tensor) -> None:
        """As `set_weight`, for a site as it is, and a weight that fits."""

    def set_bias(self, site: WeightSite, bias: Tensor) -> None:
        """Store a new bias [out] for a site that has one.

        Raises UserError for a site whose weight is not dense (any more), for one without a bias, and for another shape, or None.
        """
        layer = self._dense(site, WeightSite)
        shape = None if bias is None else tuple(bias.shape)
        if layer.bias is None or shape != tuple(layer.bias.shape):
            has = "no bias" if layer.bias is None else f"a bias of {layer.bias.numel()}"
            raise UserError(f"layer '{layer.name}' has {has}, the new one is {shape}")
        self._set_bias(layer, bias)

    @abstractmethod
    def _set_bias(self, site: WeightSite, bias: Tensor) -> None:
        """As `set_bias`, for a site as it is, and a bias that fits."""

    def source(self, site: Linear) -> Hashable | None:
        """What a dense layer reads: the same for layers that read one value. None where it reads what `gather_inputs` has put before it.
        Raises UserError for what is no dense linear layer."""
        return self._source(self._dense(site, Linear))

    @abstractmethod
    def _source(self, site: Linear) -> Hashable | None: ...

    def gather_inputs(self, site: Linear, order: Tensor) -> None:
        """Let a dense layer read its inputs in another order, its columns likewise, so that it gives what it gave. Layers that read one
        value in one order share the gather.

        order: int64[cols], which input stands at each place.
        Raises UserError for what is no dense linear layer, and for what is no order of its columns.
        """
        layer = self._dense(site, Linear)
        if reason := misfit_of_order(order, layer.cols):
            raise UserError(f"layer '{layer.name}': {reason}")
        self._gather_inputs(layer, order)

    @abstractmethod
    def _gather_inputs(self, site: Linear, order: Tensor) -> None: ...

    def replace(self, site: Site, op: Operator) -> None:
        """Put an operator of the vocabulary in the place of a site; its tensors become `<site>.<tensor>`, or what the host calls them. The
        site's activation stays where it was. A weight that was there goes when nothing else reads it.

        Raises UserError with the reason for an operator of another kind or size than the site, as `fits.misfit` has it, and where the model
        is too old for the operator.
        """
        found = self.now(site)
        if reason := misfit(found, op):
            raise UserError(f"{'attention' if isinstance(found, Attention) else 'layer'} '{found.name}' {reason}")
        self._replace(found, op)

    @abstractmethod
    def _replace(self, site: Site, op: Operator) -> None: ...

    def channels(self, site: Mlp | Attention) -> Channels | Refused:
        """The neurons or heads of a site with the layers that share them; refused where something else depends on how many there are.
        Raises UserError for a site of another kind."""
        found = self.now(site)
        if not isinstance(found, Mlp | Attention):
            raise UserError(f"site '{found.name}' is of kind {found.kind}, this takes Mlp or Attention")
        return self._channels(found)

    @abstractmethod
    def _channels(self, site: Mlp | Attention) -> Channels | Refused: ...

    def narrow(self, site: Mlp | Attention, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Leave out all channels but `units` (int64, ascending), whose `channels` are not refused.

        weight: of the reader, [rows, columns left].  bias: of the reader, None to keep its own.
        Raises UserError for a site whose channels are refused, and for units, a weight or a bias that do not fit them.
        """
        channels = self.channels(site)
        reason = channels.reason if isinstance(channels, Refused) else misfit_of_rest(channels, units, weight, bias)
        if reason:
            raise UserError(f"site '{site.name}' is not narrowed: {reason}")
        assert not isinstance(channels, Refused)
        self._narrow(channels, units, weight, bias)

    @abstractmethod
    def _narrow(self, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None: ...

    @abstractmethod
    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        """Evaluate in the host itself (torch; onnxruntime). inputs: torch or numpy arrays, by position or by name.
        Raises InputError for wrong names, counts, shapes and dtypes, for NaN, and for what the model fails on; UserError for a tap that
        names no site."""

    def as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Per set of inputs, the outputs of the file or module itself, before anything was made of it. Raises what `run` raises, and
        UserError after `forget_file`."""
        if self.came is None:
            raise UserError(f"{self.where}: what it was read from is not kept any more")
        return self._as_it_came(samples)

    @abstractmethod
    def _as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]: ...

    @abstractmethod
    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        """Evaluate once on several inputs side by side, and stop before each tapped site: its name and, for each of the inputs, what
        enters it, as in `run`. Weights that are set meanwhile count for everything that is evaluated after that: so a site sees what the
        changed sites before it make of the inputs. The sites come in execution order. Raises what `run` raises, when it begins."""

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
        self.came = None

    @abstractmethod
    def save(self, path: str | PathLike[str]) -> None:
        """Write the model in the host's own file format, atomically (.pt2 for fx, .onnx for onnx).
        Raises UserError, naming the file, when it cannot be written there, and ModelError when the format cannot hold the model."""

    def _dense(self, site: Site, kind: type[W]) -> W:
        """A layer as it is, whose weight may be changed. Raises UserError for another one."""
        found = self.now(site)
        if not isinstance(found, kind):
            raise UserError(f"site '{found.name}' is of kind {found.kind}, this takes {_KINDS[kind]}")
        if found.form is not None:
            raise self._not_dense(found)
        return found

    def _not_dense(self, site: WeightSite) -> UserError:
        return UserError(f"layer '{site.name}' is {site.word}; change its weight, bias and inputs before that")


_KINDS: dict[type[WeightSite], str] = {WeightSite: "a layer with a weight", Linear: "Linear"}


Given = Mapping[str, "tuple[Tensor, Tensor | None]"]
"""Other weights and biases by the name of a site with a dense weight that it does not share: a weight in the shape of `site.weight`, a
bias, or None for the site's own."""


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
