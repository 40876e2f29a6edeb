"""Give the kept weights new values, so that the pruned model comes near to the dense one again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsecc.calibration.context import Context, Progress
from sparsecc.calibration.statistics import as_columns
from sparsecc.calibration.variations import Varied
from sparsecc.criteria.base import singular
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Differentiable, Graph, Targets
from sparsecc.graph.select import require_valid, select, untouchable
from sparsecc.graph.sites import WeightSite
from sparsecc.passes._device import on_device, require_device
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.ranks.work import of_first
from sparsecc.recovery import checkpoint as checkpoints
from sparsecc.recovery.blocks import distill_blocks
from sparsecc.recovery.distill import Lessons, distill
from sparsecc.recovery.reconstruct import Moments, fit, split
from sparsecc.recovery.schedule import Learnt, Schedule, key_of
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("reconstruction", "blocks", "distillation")
DTYPES = ("float32", "bfloat16")
_OUTPUT = "its output"
_ALIKE = Refused("no pass changed it")


@dataclass(frozen=True)
class Rebuilt:
    """What Recover does at a site. before, after: ‖y − y'‖ / ‖y‖ on the inputs held out, y being what the dense model gives.
    where: of what that is the error.  tokens: on which it was fitted, where that is known."""

    weight: Tensor
    bias: Tensor | None
    before: float
    after: float
    where: str
    tokens: int | None = None

    def __str__(self) -> str:
        note = "" if self.tokens is None else singular(self.tokens, self.weight.shape[1])
        return f"recovered, error of {self.where} {self.before:.3g} -> {self.after:.3g}{note}"


@dataclass(frozen=True)
class Recover(Pass[WeightSite, Rebuilt]):
    """Give the kept weights and biases new values, so that the model comes near to the dense one again. Masks stay; no labels are needed.

    The pass compares with the model as it came, before the first pass of the recipe, and therefore belongs into the recipe that prunes.

    targets: the layers to work on.
    unchanged: whether layers that no pass has changed learn, too, with `blocks` and `distillation`. They stay as they are otherwise. On
    MiniLM with 40 % of its neurons removed they bring the cosine after 6000 steps from 0.9886 to 0.9894.
    method: `reconstruction`: layer by layer, least squares against what the layer gave in the dense model, on torch and ONNX models.
    `blocks`: block by block (half a transformer layer, or a few convolutions) by gradient descent against what the block gave in the dense
    model; torch models. Only one block's activations are held. `distillation`: all layers at once, by gradient descent against the dense
    model's outputs and the inputs of its layers; torch models.
    held_out: the share of the calibration samples, at least one of several, on which the result is judged. A layer (with `blocks` a block,
    with `distillation` the model, in its best state on the way) keeps its old weights where the new ones are no better.
    variations: how many further inputs to make of each sample. Runs of tokens come from other rows, single tokens are replaced, and samples
    of floats are mixed; the dense model says what is right for any input.
    steps: steps of gradient descent, for each block or for the model, one sample a step. A sample may be a batch.
    learning_rate: the learning rate of gradient descent.
    dtype: `float32`, or `bfloat16`, in which matrix products are faster where the CPU has it.
    checkpoint: a file for the state of the pass. After Ctrl-C the same call goes on from there, to the bit. `blocks` and `reconstruction`
    write one file for each block or layer, which end in `.0`, `.1`, ...
    device: a device of torch, as `cuda`, on which both models run (torch models). Where the weights lie when not given.
    """

    examples = (Example({}, settles=False),)  # layers are fitted again, to inputs that those before them changed

    targets: Targets = ALL
    ignore: Targets = ()
    method: str = "reconstruction"
    held_out: float = 0.1
    variations: int = 4
    steps: int = 1000
    learning_rate: float = 5e-4
    dtype: str = "float32"
    checkpoint: str | None = None
    device: str | None = None
    unchanged: bool = False

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        require_device(self.device)
        if self.unchanged and self.method == "reconstruction":
            raise RecipeError("unchanged: least squares find nothing better for a layer that is as it came; leave it out")
        if self.method not in METHODS:
            raise RecipeError(f"method: no {self.method!r}{did_you_mean(self.method, list(METHODS))}")
        if not 0 <= self.held_out < 1:
            raise RecipeError(f"held_out: {self.held_out} is not in [0, 1)")
        if self.variations < 0:
            raise RecipeError(f"variations: {self.variations} is negative")
        if self.steps < 1:
            raise RecipeError(f"steps: {self.steps} is less than 1")
        if not 0 < self.learning_rate < 1:
            raise RecipeError(f"learning_rate: {self.learning_rate} is not in (0, 1)")
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype: no {self.dtype!r}{did_you_mean(self.dtype, list(DTYPES))}")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[WeightSite, Rebuilt]]:
        original = graph if context.original is None else context.original
        sites = select(graph, WeightSite, self.targets, self.ignore)
        graph, original = on_device(graph, self.device), on_device(original, self.device)
        dense = {site.name: site for site in original.sites(WeightSite)}
        found: dict[str, Rebuilt | Refused] = {}
        taken, changed = list[WeightSite](), False
        for site in sites if self.device is None else select(graph, WeightSite, self.targets, self.ignore):
            reason = untouchable(site) or self._unlike(site, dense.get(site.name))
            alike = reason is None and torch.equal(site.weight, dense[site.name].weight)
            changed |= reason is None and not alike
            if reason is None and (self.unchanged or not alike):
                taken.append(site)
            else:
                found[site.name] = reason or _ALIKE
        if not changed:
            found, taken = found | {site.name: _ALIKE for site in taken}, []
        if taken and not context.calibration:
            raise RecipeError("method: this one needs calibration inputs; pass calibration= (--calib)")
        how = {"reconstruction": self._rebuilt, "blocks": self._by_blocks, "distillation": self._distilled}
        if taken:
            taught = how[self.method](graph, original, taken, dense, context)
            found |= of_first("recovery", lambda: {site.name: rebuilt for site, rebuilt in taught})
        yield from (Match(site, found[site.name]) for site in sites)

    def rewrite(self, graph: Graph, site: WeightSite, rebuilt: Rebuilt) -> None:
        _set(graph, site, rebuilt)

    def _unlike(self, site: WeightSite, dense: WeightSite | None) -> Refused | None:
        """Why a layer cannot learn from the dense one. One that has lost outputs learns by what comes after it."""
        if dense is None:
            return Refused("the dense model has no such layer")
        if dense.rows != site.rows and self.method == "reconstruction":
            return Refused(f"it has {site.rows} of the {dense.rows} outputs of the dense layer; distillation can recover it")
        return None

    def _distilled(
        self, graph: Graph, original: Graph, sites: Sequence[WeightSite], dense: dict[str, WeightSite], context: Context
    ) -> Iterator[tuple[WeightSite, Rebuilt | Refused]]:
        assert context.calibration is not None
        graph, original = _require_gradients(graph), _require_gradients(original)
        samples = Varied.of(graph.inputs, context.calibration, graph.embeddings())
        fitted, held = split(len(samples.samples), self.held_out)
        lessons = Lessons(self.steps, self.learning_rate, fitted, held, self.dtype, context.seed, self.variations)
        found = distill(graph, original, sites, samples, lessons, self.checkpoint, context.progress)
        yield from ((site, _learnt(site, found, "the model")) for site in sites)

    def _by_blocks(
        self, graph: Graph, original: Graph, sites: Sequence[WeightSite], dense: dict[str, WeightSite], context: Context
    ) -> Iterator[tuple[WeightSite, Rebuilt | Refused]]:
        graph, original = _require_gradients(graph), _require_gradients(original)
        inputs, fitted, held = self._inputs(graph, context)
        schedule = Schedule(self.steps, self.learning_rate, fitted, held, self.dtype, context.seed)
        for taught, found in distill_blocks(graph, original, sites, inputs, schedule, self.checkpoint, context.progress):
            yield from ((site, found if isinstance(found, Refused) else _learnt(site, found, "its block")) for site in taught)

    def _rebuilt(
        self, graph: Graph, original: Graph, sites: Sequence[WeightSite], dense: dict[str, WeightSite], context: Context
    ) -> Iterator[tuple[WeightSite, Rebuilt | Refused]]:
        """Both models side by side, so that what enters a layer in each is at hand."""
        assert context.calibration is not None
        working, by_name = graph.copy(), {site.name: site for site in sites}
        inputs, fitted, held = self._inputs(graph, context)
        names, setting = list(by_name), ("reconstruction", self.held_out, self.variations, context.seed)
        key = "" if self.checkpoint is None else key_of(setting, sites, (graph, original), inputs)
        walks = zip(original.walk(inputs, names), working.walk(inputs, names), strict=True)
        for done, ((name, before), (_, entering)) in enumerate(walks, 1):
            site, whole = by_name[name], dense[name]
            path = None if self.checkpoint is None else f"{self.checkpoint}.{done - 1}"
            rebuilt = None if path is None else _loaded(path, key, site)
            if rebuilt is None:
                samples = [(x, now) for (x,), (now,) in zip(before, entering, strict=True)]
                rebuilt = _rebuild(site, whole, [samples[i] for i in fitted], [samples[i] for i in held])
                if path is not None and isinstance(rebuilt, Rebuilt):
                    _save(path, key, rebuilt)
            if isinstance(rebuilt, Rebuilt):
                _set(working, site, rebuilt)
            if context.progress is not None:
                context.progress(Progress("reconstruction", done, len(names), name))
            yield site, rebuilt

    def _inputs(self, graph: Graph, context: Context) -> tuple[Sequence[tuple[Tensor, ...]], Sequence[int], Sequence[int]]:
        """The samples and what is made of those to fit on; the indices of those to fit on and of those held out."""
        samples = Varied.of(graph.inputs, context.calibration or (), graph.embeddings())
        fitted, held = split(len(samples.samples), self.held_out)
        made = samples.others(self.variations, fitted, context.seed)
        return [*samples.samples, *made], [*fitted, *range(len(samples.samples), len(samples.samples) + len(made))], held


def _require_gradients(graph: Graph) -> Differentiable:
    if not isinstance(graph, Differentiable):
        raise RecipeError(f"method: gradients do not flow through {graph.host}; give the torch model, or take 'reconstruction'")
    return graph


def _learnt(site: WeightSite, found: Learnt, where: str) -> Rebuilt | Refused:
    if not found.after < found.before:
        return Refused(f"no better on held-out inputs than before, error of {where} {found.before:.3g}")
    return Rebuilt(site.to_matrix(found.weights[site.name]), found.biases.get(site.name), found.before, found.after, where)


def _rebuild(
    site: WeightSite, dense: WeightSite, fitted: Sequence[tuple[Tensor, Tensor]], held: Sequence[tuple[Tensor, Tensor]]
) -> Rebuilt | Refused:
    """fitted, held: for each sample what enters the dense layer, and what enters this one."""
    moments, other = (_moments(site, dense, samples) for samples in (fitted, held))
    if not moments.tokens or not other.tokens:
        return Refused("no calibration input reaches it")
    if not (moments.products.isfinite().all() and moments.inputs.isfinite().all()):
        return Refused("its calibration inputs hold NaN or infinity")
    matrix = site.matrix.float()
    bias = matrix.new_zeros(site.rows) if site.bias is None else site.bias.detach().float()
    now = torch.cat([matrix, bias[:, None]], 1)
    keep = torch.cat([matrix != 0, matrix.new_full((site.rows, 1), site.bias is not None, dtype=torch.bool)], 1)
    new = fit(now, keep, moments)
    weight = new[:, :-1].to(site.matrix.dtype)
    bias = None if site.bias is None else new[:, -1].to(site.bias.dtype)
    rounded = torch.cat([weight.double(), new.new_zeros(site.rows, 1) if bias is None else bias.double()[:, None]], 1)
    before, after = other.error(now), other.error(rounded)
    if not after < before:
        return Refused(f"new weights are no better on held-out inputs: error {before:.3g} -> {after:.3g}")
    return Rebuilt(weight, bias, before, after, _OUTPUT, moments.tokens)


def _save(path: str, key: str, rebuilt: Rebuilt) -> None:
    tensors = {"weight": rebuilt.weight} if rebuilt.bias is None else {"weight": rebuilt.weight, "bias": rebuilt.bias}
    checkpoints.save(path, key, tensors, {"before": rebuilt.before, "after": rebuilt.after, "tokens": rebuilt.tokens or 0})


def _loaded(path: str, key: str, site: WeightSite) -> Rebuilt | None:
    loaded = checkpoints.load(path, key)
    if loaded is None:
        return None
    tensors, numbers = loaded
    found = {name: tensor.to(site.weight.device) for name, tensor in tensors.items()}
    return Rebuilt(found["weight"], found.get("bias"), numbers["before"], numbers["after"], _OUTPUT, int(numbers["tokens"]))


def _moments(site: WeightSite, dense: WeightSite, samples: Sequence[tuple[Tensor, Tensor]]) -> Moments:
    matrix = dense.matrix.float()
    bias, found = 0.0 if dense.bias is None else dense.bias.detach().float(), Moments.of(dense.rows, site.cols, matrix.device)
    for x, now in samples:
        found.add(as_columns(site, now), as_columns(dense, x) @ matrix.T + bias)
    return found


def _set(graph: Graph, site: WeightSite, rebuilt: Rebuilt) -> None:
    graph.set_weight(site, site.from_matrix(rebuilt.weight))
    if rebuilt.bias is not None:
        graph.set_bias(site, rebuilt.bias)
