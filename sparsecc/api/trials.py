"""Variants of one model, compiled for their times and sizes alone."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from sparsecc import codegen
from sparsecc.api import Path, Shapes, account, known_of, sources, target_of
from sparsecc.api.rewriting import Rewritten, rewrite
from sparsecc.api.units import Group, groups
from sparsecc.calibration.context import Context
from sparsecc.codegen.backend import recorded
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.cpu.target import host_name
from sparsecc.codegen.kernel import kernels
from sparsecc.codegen.tuning.text import text
from sparsecc.errors import UserError
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.structured import Structured, errors_alone
from sparsecc.recipe import Recipe
from sparsecc.runtime.compiled import Compiled
from sparsecc.timing import settled

if TYPE_CHECKING:
    from sparsecc.calibration.context import Progress
    from sparsecc.codegen.library import Library
    from sparsecc.codegen.target import Target
    from sparsecc.criteria.base import Stats
    from sparsecc.graph.base import Graph, TensorSpec
    from sparsecc.graph.inputs import Sample
    from sparsecc.report.base import Report
    from sparsecc.report.profile import Profile

Told = Callable[["Progress"], None]
_SAMPLES = 1024  # weights of a layer by which models are told apart


class Variant(Protocol):
    """A model that one recipe has made, as a search measures and judges it: `runtime.compiled.Compiled` is one."""

    report: Report

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def flat(self, values: Sequence[Any]) -> list[Any]:
        """The outputs in a row, for inputs in the model's order."""
        ...

    def profile_of(self, values: Sequence[Any], seconds: float = 2.0, rounds: int = 50) -> Profile:
        """How long each layer takes where it stands in the model."""
        ...


class Trials:
    """Compiles a model again and again, each time rewritten by another recipe. No outputs are compared and no errors measured, and nothing
    is calibrated where no samples are given: recipes with the criterion `random` are made for it. Kernels that were timed for one variant
    are not timed again for another that has the same layer in the same form, so that equal layers are decided alike in all variants.

    graph: the model as it came.  example: the inputs that it is compiled for.  target: this machine, or one that is only compiled for.
    """

    stateful: ClassVar[bool] = False  # what is compiled remembers nothing from call to call
    recovers: ClassVar[bool] = True  # whether a search lets weights learn
    notes: Sequence[str] = ()  # on how it is measured

    def __init__(self, graph: Graph, example: Sample, target: Target, known: Mapping[Any, Any] | None = None, name: str = "model") -> None:
        """known: from records, for the target.  name: in reports."""
        self.graph, self.example, self.target, self.name = graph, example, target, name
        self._chooser: Chooser[Any] = Chooser(target, target.is_here, known or {})
        self._latest: tuple[Recipe, Rewritten] | None = None  # what was looked at is often what is compiled next

    @classmethod
    def open(
        cls,
        model: Any,
        example_inputs: Any = None,
        *,
        target: str = "cpu",
        threads: int | None = None,
        records: Path | None = None,
        input_shapes: Shapes | None = None,
        samples: Callable[[Sequence[TensorSpec]], Sequence[Sample]] | None = None,
    ) -> Trials:
        """Arguments as for `compile`. samples: given the inputs, calibration samples, of which the first is the example where there is no
        other. Raises UserError for a GPU, for which `GpuTrials` is, and whatever `compile` raises for its model."""
        goal = cls._target_of(target, threads)
        graph = cls._opened(model, example_inputs, input_shapes)
        example, _ = sources.example(graph.inputs, example_inputs, None if samples is None else samples(graph.inputs), model)
        return cls(graph, example, goal, known_of(records, goal), sources.name_of(model))

    def remember(self, of: Callable[[Mapping[str, Any], Callable[[], Any]], Any]) -> None:
        """Keeps what kernels take, beyond the life of this, so that a search that goes on decides as it did before. of: gives what is
        kept under a key, and keeps what was measured where nothing is."""
        key = {"target": self.target_text, "code": self.version}
        self._chooser.kept = lambda kernels, measure: of({**key, "kernels": kernels}, measure)

    @classmethod
    def _target_of(cls, target: str, threads: int | None) -> Target:
        goal = target_of(target, threads)
        if goal.backend == "cuda":
            raise UserError("target: these variants of a model are compiled for CPUs")
        return goal

    @classmethod
    def _opened(cls, model: Any, example_inputs: Any, input_shapes: Shapes | None) -> Graph:
        return sources.open_graph(model, example_inputs, input_shapes, standard=True, numbers=True)

    @property
    def is_here(self) -> bool:
        """Whether variants can be measured."""
        return self.target.is_here

    @property
    def machine(self) -> str:
        """That variants are measured on, and on how much of it."""
        return f"{host_name()}, {self.target.threads} threads"

    @property
    def dtypes(self) -> frozenset[str]:
        """Number formats besides float32 that the target multiplies."""
        return frozenset(getattr(self.target, "dot", ()))

    @property
    def sites(self) -> tuple[str, ...]:
        """Layers with a weight, in the order of the model."""
        return tuple(site.name for site in self.graph.sites(WeightSite))

    @functools.cached_property
    def groups(self) -> Mapping[str, Group]:
        """Layers that become narrower together, by the name of the Mlp or attention."""
        return groups(self.graph)

    @functools.cached_property
    def together(self) -> Mapping[str, str]:
        """Layers that are put on one rung, since one kernel computes them then: layer → the first of them."""
        return {}

    def removal_errors(
        self, shares: Sequence[float], samples: Sequence[Sample], known: Mapping[str, Stats] | None = None, **fields: Any
    ) -> dict[str, dict[float, float]]:
        """‖y − y'‖ / ‖y‖ of the layer that reads a group's units, for each share of them that goes while all other groups are whole; by the
        group's name. Groups that lose nothing at any of the shares are left out.  known: as in `Context`.  fields: of
        `structured`."""
        steps = {share: Structured(neurons=share, heads=share, **fields) for share in shares}
        return dict(errors_alone(steps, self.graph, tuple(self.groups), Context(calibration=samples, known=known)))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the model: its layers, how they are connected, some of each one's weights, and the shapes of the example."""
        digest = hashlib.sha256(str(self.graph).encode())
        for value in self.example:
            digest.update(f"{tuple(value.shape)}".encode())
        for site in self.graph.sites(WeightSite):
            matrix = site.matrix.detach().reshape(-1)
            places = np.linspace(0, max(0, len(matrix) - 1), min(_SAMPLES, len(matrix))).astype(np.int64)
            digest.update(matrix[torch.from_numpy(places).to(matrix.device)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    @functools.cached_property
    def content(self) -> str:
        """A digest of all that the model computes with: `fingerprint`, and every number of its tensors."""
        digest = hashlib.sha256(self.fingerprint.encode())
        for tensor in self.graph.tensors():
            digest.update(np.ascontiguousarray(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()).tobytes())
        return digest.hexdigest()[:32]

    @property
    def target_text(self) -> str:
        """The target and its threads, as records have it."""
        return text(self.target)

    @functools.cached_property
    def version(self) -> str:
        """Changes when the code that is generated may have: a digest of all kernels, and TVM's version."""
        backend = recorded(self.target)
        digest = hashlib.sha256(importlib.metadata.version("apache-tvm").encode())
        for kernel in sorted(kernels(self.target.backend)):
            digest.update(f"{kernel} {backend.version(kernel)}".encode())
        return digest.hexdigest()[:16]

    def deeds(self, recipe: Any) -> dict[str, int]:
        """At how many passes of the recipe something was done, by layer."""
        ledger = self._rewritten(Recipe.load(recipe)).ledger
        return {site: sum(entry.done is not None for entry in ledger.of(site)) for site in self.sites}

    def report(self, recipe: Any) -> Report:
        """What the recipe makes of the model, with the sizes of what it stores; nothing is compiled."""
        return account.chosen(account.report(result := self._rewritten(Recipe.load(recipe)), self.target.name), (), result.graph)

    def rewritten(
        self, recipe: Any, samples: Sequence[Sample], progress: Told | None = None, known: Mapping[str, Stats] | None = None
    ) -> Graph:
        """The graph that a recipe makes of the model, calibrated with the samples.  progress: called by passes that take long.  known: as
        in `Context`."""
        return self._rewritten(Recipe.load(recipe), samples, progress, known).graph

    def compile(self, recipe: Any, samples: Sequence[Sample] | None = None, progress: Told | None = None) -> Variant:
        """The rewritten model, which runs. Its report has no errors and no check. samples: that the recipe's passes are calibrated with;
        then it also takes inputs of other shapes than the example's.  progress: called by passes that take long."""
        result = self._rewritten(Recipe.load(recipe), samples, progress)
        library, choices = codegen.build(result.graph, self.example, self.target, chooser=self._chooser)
        compiled = Compiled(
            inputs=result.graph.inputs,
            outputs=result.graph.outputs,
            target=self.target,
            report=account.chosen(account.report(result, self.target.name), choices, result.graph),
            structure=result.graph.structure,
            specialize=self._no_other if samples is None else lambda inputs: self._built(result.graph, inputs),
        )
        compiled.add_library(library)
        return compiled

    def faster(self, variant: Variant, dense: Variant, seconds: float, rounds: int) -> float:
        """How many times as fast as the dense model a variant is, on the example."""
        example = self.example
        return settled(lambda: variant.flat(example), lambda: dense.flat(example), seconds=seconds, rounds=rounds)

    def computed(self, variant: Variant, sites: Sequence[str]) -> list[str]:
        """Of layers that a recipe has changed, those that the variant computes as it stores them."""
        return list(sites)

    def _rewritten(
        self,
        recipe: Recipe,
        samples: Sequence[Sample] | None = None,
        progress: Told | None = None,
        known: Mapping[str, Stats] | None = None,
    ) -> Rewritten:
        """assumed: a pass that finds nothing to do is no mistake here."""
        if samples is not None:
            options: dict[str, Any] = {"progress": progress, "known": known, "stateful": self.stateful}
            return rewrite(self.graph, replace(recipe, assumed=True), samples, None, self.name, **options)
        if self._latest is None or self._latest[0] != recipe:
            self._latest = None  # its weights make room for these
            self._latest = recipe, rewrite(self.graph, replace(recipe, assumed=True), None, None, self.name, stateful=self.stateful)
        return self._latest[1]

    def _built(self, graph: Graph, inputs: Sequence[Any]) -> Library:
        return codegen.build(graph, inputs, self.target, chooser=self._chooser)[0]

    def _no_other(self, inputs: Sequence[Any]) -> Any:
        raise UserError("a variant that is compiled for its time takes inputs of the example's shapes alone")
