"""Remove neurons and attention heads that are dead or matter least: the layers around them become smaller dense ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sparsecc.calibration.context import Context, Progress
from sparsecc.calibration.statistics import calibrated, relative_error
from sparsecc.criteria.base import singular, unusable
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.activations import KNOWN
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.channels import Channels
from sparsecc.graph.select import around, never_trained, require_valid, untouchable
from sparsecc.graph.sites import Attention, Linear, Mlp
from sparsecc.passes._units import Inputs, by_least_squares, contributions, least, magnitudes, within
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.criteria.base import Stats

_Sites = Mapping[str, Mlp | Attention]

CRITERIA = ("magnitude", "contribution", "obs")
_NEEDS = ("hessian", "means", "tokens")


@dataclass(frozen=True)
class Removal:
    """What Structured does at a site. units: int64, those that stay.  weight, bias: of the layer that reads them, bias None where it has
    none.  dead: how many of those that go.  error: ‖y − y'‖ / ‖y‖ of that layer on the calibration inputs, None without any.
    weights: of all layers around, before and after.  note: on what it was calibrated."""

    units: Tensor
    weight: Tensor
    bias: Tensor | None
    what: str
    total: int
    dead: int
    criterion: str
    error: float | None
    weights: tuple[int, int]
    note: str = ""

    def __str__(self) -> str:
        before, after = self.weights
        dead = f" ({self.dead} dead)" if self.dead else ""
        error = "" if self.error is None else f", error of what they give {self.error:.3g}"
        removed = f"{self.total - len(self.units)} of {self.total} {self.what} removed{dead}"
        return f"{removed} by {self.criterion}, {before:,} -> {after:,} weights and multiply-adds a token{error}{self.note}"


@dataclass(frozen=True)
class Structured(Pass[Mlp | Attention, Removal]):
    """Remove neurons of an Mlp (Linear, activation, Linear) and heads of an attention: a smaller dense model is left.

    second(act(first(x)))  ->  second[:, keep](act(first[keep](x)))
    out(attention(q, k, v))  ->  out[:, keep](attention(q[keep], k[keep], v[keep]))

    Shares are of what the model came with: the same pass twice in a recipe removes once. What a removed neuron gives on average moves into
    the bias of the layer that reads it. Heads that share keys and values are removed together.

    Left as they are, with the reason in the report: layers that share a weight or bias, packed, quantized and structured layers, q, k and v
    from one layer, channels that anything else reads, and graphs that compute with the number of heads in a way that is not understood.
    Gated Mlps (SwiGLU) are not looked at.

    targets: names of Mlps, of their first layers, or of attentions; the kinds are `Mlp` and `Attention`. An empty list means all of them.
    neurons: the share of each Mlp's neurons to remove, in [0, 1). At 0 only dead neurons go.
    heads: the share of each attention's heads to remove, in [0, 1). At 0 attention is left alone.
    criterion: what a neuron or head is worth. `magnitude`: norm of its rows times norm of its columns. `contribution`: what it adds to the
    variance of the layer that reads it, on calibration inputs. `obs`: what its removal adds to that layer's error once the other columns
    are fitted again by least squares.
    dead: a neuron or head that contributes at most this share of what the largest one does is dead, and goes even beyond the share asked
    for.
    round_to: the number of neurons left is a multiple of this, so that fewer go.
    keep_zeros: weights of the layer that reads them which are zero stay zero under `obs`.
    """

    examples = (Example({"neurons": 0.3, "heads": 0.5}, on=("transformer",)),)

    targets: Targets = ALL
    ignore: Targets = ()
    neurons: float = 0.0
    heads: float = 0.0
    criterion: str = "magnitude"
    dead: float = 1e-6
    round_to: int = 1
    keep_zeros: bool = True

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        for field in ("neurons", "heads", "dead"):
            if not 0 <= getattr(self, field) < 1:
                raise RecipeError(f"{field}: {getattr(self, field)} is not in [0, 1)")
        if self.criterion not in CRITERIA:
            raise RecipeError(f"criterion: no {self.criterion!r}{did_you_mean(self.criterion, list(CRITERIA))}")
        if self.round_to < 1:
            raise RecipeError(f"round_to: {self.round_to} is less than 1")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[Mlp | Attention, Removal]]:
        """A criterion that calibrates sees what the sites before a site give once they have lost theirs."""
        sites = self._sites(graph)
        found: dict[str, Removal | Refused] = {}
        channels: dict[str, Channels] = {}
        for site in sites:
            whole = graph.channels(site)
            reason = whole if isinstance(whole, Refused) else _refuse(whole, self.targets)
            if reason is not None:
                found[site.name] = reason
            elif isinstance(whole, Channels):
                channels[site.name] = whole
        taken = [site for site in sites if site.name in channels]
        for done, (site, removal) in enumerate(self._removals(graph, taken, channels, context), 1):
            found[site.name] = removal
            if context.progress is not None:
                context.progress(Progress(f"removal by {self.criterion}", done, len(taken), site.name))
        for site in sites:
            layers = channels[site.name].layers if site.name in channels else (site.first, site.second) if isinstance(site, Mlp) else ()
            yield Match(site, found[site.name], tuple(layer.name for layer in layers))

    def rewrite(self, graph: Graph, site: Mlp | Attention, removal: Removal) -> None:
        graph.narrow(site, removal.units, removal.weight, removal.bias)

    def _sites(self, graph: Graph) -> list[Mlp | Attention]:
        sites = [site for site in graph.sites() if isinstance(site, (Mlp, Attention))]
        return [site for site in around(sites, self.targets, self.ignore) if self.heads or isinstance(site, Mlp)]

    def _removals(
        self, graph: Graph, sites: Sequence[Mlp | Attention], channels: dict[str, Channels], context: Context
    ) -> Iterator[tuple[Mlp | Attention, Removal | Refused]]:
        original = {site.name: site for site in (context.original or graph).sites() if isinstance(site, (Mlp, Attention))}
        if self.criterion == "magnitude":
            for site in sites:
                yield site, self._by_magnitude(site, channels[site.name], original)
            return
        working, by_reader = graph.copy(), {channels[site.name].reader.name: site for site in sites}
        readers = [channels[site.name].reader for site in sites]
        for reader, stats in calibrated(working, readers, _NEEDS, context):
            site = by_reader[reader.name]
            removal = self._calibrated(site, channels[site.name], stats, original)
            if isinstance(removal, Removal):
                _zero(working, channels[site.name], removal)
            yield site, removal

    def _by_magnitude(self, site: Mlp | Attention, channels: Channels, original: _Sites) -> Removal | Refused:
        """What goes is taken for what it gives where its inputs are zero, which is all that it ever gives where its rows are."""
        reader, writer = channels.reader, channels.writers[-1]
        weight = reader.matrix.detach().double()
        resting = _resting(site, channels)
        constant = resting if reader.bias is None else torch.zeros_like(resting)  # what a bias takes up costs nothing
        scores = magnitudes(writer.matrix.detach(), constant, weight, channels.units)
        drop = self._drop(site, scores, _came_with(site, channels.units, original))
        if isinstance(drop, Refused):
            return drop
        dead = self._dead(scores)
        stay = least(scores, dead, drop)
        kept = _spread(channels, stay, weight[:, channels.columns(stay)])
        return self._removal(site, channels, stay, kept, resting, int(dead.sum()), None)

    def _calibrated(self, site: Mlp | Attention, channels: Channels, stats: Stats, original: _Sites) -> Removal | Refused:
        if reason := unusable(stats, _NEEDS):
            return reason
        reader = channels.reader
        weight, inputs = reader.matrix.detach().double(), Inputs.of(stats["means"], stats["hessian"], reader.bias is not None)
        scores = contributions(weight, inputs, channels.units)
        root = scores.clamp(min=0).sqrt()
        drop = self._drop(site, root, _came_with(site, channels.units, original))
        if isinstance(drop, Refused):
            return drop
        dead = self._dead(root)
        if self.criterion == "obs":
            stay, left = by_least_squares(weight, inputs, dead, drop)
            left = self._held(weight, left, inputs, channels.columns(stay))
        else:
            stay = least(scores, dead, drop)
            left = weight[:, channels.columns(stay)]
        kept = _spread(channels, stay, left)
        error = relative_error(weight, kept, inputs.products)
        removal = self._removal(site, channels, stay, kept, inputs.means, int(dead.sum()), error)
        return replace(removal, note=singular(int(stats["tokens"]), reader.cols)) if self.criterion == "obs" else removal

    def _held(self, weight: Tensor, left: Tensor, inputs: Inputs, columns: Tensor) -> Tensor:
        """With the zeros that the reader came with."""
        keep = weight[:, columns] != 0
        return left if not self.keep_zeros or bool(keep.all()) else within(weight, left, inputs, columns, keep)

    def _dead(self, contributed: Tensor) -> Tensor:
        return contributed <= self.dead * contributed.max()

    def _drop(self, site: Mlp | Attention, contributed: Tensor, came_with: int) -> int | Refused:
        """How many units go."""
        units, dead = len(contributed), int(self._dead(contributed).sum())
        share, step, what = (self.neurons, self.round_to, "neurons") if isinstance(site, Mlp) else (self.heads, 1, "heads")
        keep = max(1, min(came_with - round(share * came_with), units - dead))
        rounded = -(-keep // step) * step
        if rounded < units:
            return units - rounded
        if keep < units:
            return Refused(f"no multiple of {step} lies between the {keep} {what} to keep and its {units}")
        return Refused(f"none of its {units} {what} is dead" if not share else f"it has {units} of the {came_with} {what} it came with")

    def _removal(
        self, site: Mlp | Attention, channels: Channels, stay: Tensor, kept: Tensor, means: Tensor, dead: int, error: float | None
    ) -> Removal:
        """kept: the reader's weight in its old shape, zero where units go.  means: what its inputs are on average."""
        reader = channels.reader
        lost = (reader.matrix.detach().double() - kept) @ means
        bias = None if reader.bias is None else (reader.bias.detach().double() + lost).to(reader.bias.dtype)
        before = sum(layer.rows * layer.cols for layer in channels.layers)
        return Removal(
            units=stay,
            weight=kept[:, channels.columns(stay)].to(reader.matrix.dtype),
            bias=bias,
            what="neurons" if isinstance(site, Mlp) else "heads" if channels.units == site.heads else "groups of heads",
            total=channels.units,
            dead=min(dead, channels.units - len(stay)),
            criterion=self.criterion,
            error=error,
            weights=(before, before * len(stay) // channels.units),
        )


def errors_alone(
    steps: Mapping[float, Structured], graph: Graph, targets: Targets, context: Context
) -> Iterator[tuple[str, dict[float, float]]]:
    """For each site that is named, and each key of a pass that removes something of it: ‖y − y'‖ / ‖y‖ of the layer that reads its units,
    on the calibration inputs, where nothing else is removed. All from one run of the model.

    Against `Removal.error` y is the whole output here, with what it is on average.
    """
    sites = {site.name: site for site in graph.sites() if isinstance(site, (Mlp, Attention)) and site.name in targets}
    whole = {name: graph.channels(site) for name, site in sites.items()}
    channels = {name: found for name, found in whole.items() if not isinstance(found, Refused) and _refuse(found, targets) is None}
    by_reader = {found.reader.name: name for name, found in channels.items()}
    for reader, stats in calibrated(graph, [found.reader for found in channels.values()], _NEEDS, context):
        name, found = by_reader[reader.name], dict[float, float]()
        for key, step in steps.items():
            removal = step._calibrated(sites[name], channels[name], stats, {})
            if isinstance(removal, Removal) and removal.error is not None:
                found[key] = removal.error * _of_all(channels[name].reader, stats)
        if found:
            yield name, found


def _of_all(reader: Linear, stats: Stats) -> float:
    """What the outputs vary by, as a share of what they are: ‖y − ȳ‖ / ‖y‖ where a bias makes up for ȳ, else 1."""
    weight, inputs = reader.matrix.detach().double(), Inputs.of(stats["means"], stats["hessian"], reader.bias is not None)
    varying, whole = (float(((weight @ products) * weight).sum()) for products in (inputs.products, stats["hessian"].double()))
    return (max(0.0, varying) / whole) ** 0.5 if whole > 0 else 1.0


def _refuse(channels: Channels, targets: Targets) -> Refused | None:
    for layer in channels.layers:
        if reason := untouchable(layer) or never_trained(layer, targets):
            return Refused(f"layer '{layer.name}': {reason.reason}")
    return Refused("there is only one of what could go") if channels.units < 2 else None


def _came_with(site: Mlp | Attention, units: int, original: _Sites) -> int:
    """How many units the site had in the model as it came."""
    before = original.get(site.name, site)
    if isinstance(before, Mlp):
        return before.first.rows
    assert isinstance(site, Attention)
    return units * before.heads // site.heads


def _resting(site: Mlp | Attention, channels: Channels) -> Tensor:
    """float64[cols]: what enters the reader where all that enters the writers is zero."""
    writer, cols = channels.writers[-1], channels.reader.cols
    bias = (writer.weight.new_zeros(writer.rows) if writer.bias is None else writer.bias.detach()).double()
    if isinstance(site, Mlp):
        return KNOWN[site.activation](bias)
    return bias.reshape(channels.units, 1, -1).expand(-1, cols // writer.rows, -1).flatten()  # each head of a group reads the same v


def _spread(channels: Channels, stay: Tensor, left: Tensor) -> Tensor:
    """The reader's weight in its old shape. left: the columns of the units that stay."""
    whole = left.new_zeros(len(left), channels.reader.cols)
    whole[:, channels.columns(stay)] = left
    return whole


def _zero(graph: Graph, channels: Channels, removal: Removal) -> None:
    """What the removal comes to, in the old shapes."""
    graph.set_weight(channels.reader, _spread(channels, removal.units, removal.weight))
    if removal.bias is not None:
        graph.set_bias(channels.reader, removal.bias)
