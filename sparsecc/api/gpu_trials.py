"""Variants of one model on the GPU of this machine, for their times, sizes and outputs."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from sparsecc.api import Shapes, account, gpu, sources
from sparsecc.api.gpu_variant import GpuVariant, timed
from sparsecc.api.trials import Told, Trials, Variant
from sparsecc.codegen.cuda import built, measure
from sparsecc.codegen.cuda.alone import KINDS
from sparsecc.codegen.cuda.arch import arch
from sparsecc.codegen.cuda.choose import Chooser
from sparsecc.codegen.cuda.kernel import LinearSpec
from sparsecc.codegen.cuda.kernels import kernels_of, linear_kernels
from sparsecc.codegen.cuda.lower import hinted
from sparsecc.codegen.cuda.target import Target, no_gpu
from sparsecc.codegen.cuda.target import parse as parsed
from sparsecc.errors import UserError
from sparsecc.forms import dtype_of
from sparsecc.graph.fx.rewriting import layer_of
from sparsecc.graph.sites import Linear
from sparsecc.recipe import Recipe

if TYPE_CHECKING:
    from sparsecc.codegen.cuda.lower import Lowered
    from sparsecc.graph.base import Graph
    from sparsecc.graph.inputs import Sample

_NOTES = (
    "dense is the model as torch runs it; all models are timed as CUDA graphs, replayed in turns with the dense one",
    "layers that read one value, as q, k and v, are on one rung: one kernel computes them",
    "recovery left out: a search on a GPU tries models as they are; give the pass `recover` in a recipe",
)


class Clock(Protocol):
    """Times calls on a GPU."""

    def turns(self, calls: Sequence[Callable[[], object]], seconds: float, rounds: int) -> list[list[float]]:
        """Microseconds of each call in each round."""
        ...

    def linear_us(self, rows: int, depth: int, tokens: int, dtype: torch.dtype) -> float:
        """Of a dense layer by itself, with a weight that is in no cache."""
        ...


class GraphClock:
    """By events around CUDA graphs, each of one call."""

    def turns(self, calls: Sequence[Callable[[], object]], seconds: float, rounds: int) -> list[list[float]]:
        """Raises UserError for a call that cannot be captured."""
        try:
            graphs = [measure.graph([call], at_least=1) for call in calls]
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise UserError(f"the model cannot be captured in a CUDA graph, by which it would be timed: {said}") from error
        return measure.replayed(graphs, rounds, seconds)

    def linear_us(self, rows: int, depth: int, tokens: int, dtype: torch.dtype) -> float:
        return measure.linear_us(rows, depth, tokens, dtype, torch.device("cuda", torch.cuda.current_device()))


class GpuTrials(Trials):
    """As `Trials`, for the GPU of this machine: torch runs the graph, kernels the packed layers. The model lies on the GPU, where passes
    run it, too. Code is generated for the shapes of the example; other inputs may be given, which kernels for more tokens compute."""

    stateful: ClassVar[bool] = True
    recovers: ClassVar[bool] = False
    target: Target

    def __init__(
        self, graph: Graph, example: Sample, target: Target, known: Mapping[Any, Any] | None = None, name: str = "model",
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        """graph: torch's. Raises ModelError for another."""
        host = gpu.torch_graph(graph)
        super().__init__(host.to(gpu.device_for(host, target.is_here)), example, target, known, name)
        self.notes = _NOTES
        self._clock = clock or GraphClock()
        self._kernels = Chooser(target, gpu.builder(None), measure=target.is_here, known=known or {})

    @classmethod
    def _target_of(cls, target: str, threads: int | None) -> Target:
        missing = no_gpu()
        if missing is not None:
            raise UserError(f"target {target!r}: a goal is searched for on the GPU of this machine, but {missing}")
        return parsed(target, threads or 1)

    @classmethod
    def _opened(cls, model: Any, example_inputs: Any, input_shapes: Shapes | None) -> Graph:
        return gpu.torch_graph(sources.open_graph(model, example_inputs, input_shapes, stateful=True))

    @property
    def machine(self) -> str:
        return self.target.name

    @functools.cached_property
    def together(self) -> Mapping[str, str]:
        readers: dict[Any, list[str]] = {}
        for site in self._linear.values():
            if site.form is None and (source := self.graph.source(site)) is not None:
                readers.setdefault(source, []).append(site.name)
        return {name: names[0] for names in readers.values() if len(names) > 1 for name in names}

    @functools.cached_property
    def version(self) -> str:
        """Changes when what runs may have: a digest of all kernels, and torch's version."""
        digest = hashlib.sha256(torch.__version__.encode())
        for kernel in sorted([*linear_kernels(), *(kind.kernel for kind in KINDS.values())]):
            digest.update(f"{kernel} {built.version(kernel)}".encode())
        return digest.hexdigest()[:16]

    def offers(self, form: str) -> bool:
        """Whether a kernel multiplies by weights of a form in any of the layers, with as many tokens as enter it here."""
        return any(self._takes(form, site) for site in self._linear.values())

    def compile(self, recipe: Any, samples: Sequence[Sample] | None = None, progress: Told | None = None) -> Variant:
        """As torch runs it, where the recipe has no passes."""
        wanted = Recipe.load(recipe)
        result = self._rewritten(wanted, samples, progress)
        report = account.report(result, f"cuda:{self.target.name}")
        graph = gpu.torch_graph(result.graph)
        if not wanted.passes:
            return GpuVariant(graph.module, graph, report, self._dense_us, self._clock.turns)
        lowered = gpu.lowered_on(str(graph.device), graph, self._kernels)
        report = gpu.chosen(replace(report, notes=(*report.notes, *lowered.notes)), lowered.choices, lowered.others)
        return GpuVariant(lowered.module, graph, report, self._us(lowered), self._clock.turns)

    def faster(self, variant: Variant, dense: Variant, seconds: float, rounds: int) -> float:
        assert isinstance(variant, GpuVariant)
        assert isinstance(dense, GpuVariant)
        theirs, mine = timed([dense, variant], self.example, self._clock.turns, seconds, rounds)
        return float(np.median(np.array(theirs) / np.array(mine)))

    def computed(self, variant: Variant, sites: Sequence[str]) -> list[str]:
        """Those that a kernel computes: cuBLAS was faster for the others, or no kernel takes them."""
        by_kernel = {row.name for row in variant.report.sites if row.kernel is not None}
        return [site for site in sites if site in by_kernel]

    @functools.cached_property
    def _linear(self) -> dict[str, Linear]:
        return {site.name: site for site in self.graph.sites(Linear) if site.form is None}

    def _tokens(self, site: Linear) -> int:
        return hinted(self._entering(site).shape[:-1])

    def _entering(self, site: Linear) -> Any:
        return layer_of(gpu.torch_graph(self.graph).module, site).x.meta["val"]

    def _takes(self, form: str, site: Linear) -> bool:
        x, tokens = self._entering(site), self._tokens(site)
        if x.dtype not in (torch.bfloat16, torch.float16):
            return False
        for kernel in kernels_of(form).values():
            bucket = next((most for most in kernel.tokens if tokens <= most), kernel.tokens[-1] if kernel.any_tokens else None)
            if bucket is not None:
                spec = LinearSpec(form, site.rows, site.cols, bucket, dtype_of(x))
                if any(kernel.space(spec, row) for row in map(arch, self.target.arches)):
                    return True
        return False

    @functools.cached_property
    def _dense_us(self) -> Mapping[str, float]:
        """Of each layer as torch runs it; layers alike are timed once."""
        alike: dict[Any, float] = {}
        found: dict[str, float] = {}
        for site in self._linear.values():
            key = (site.rows, site.cols, self._tokens(site), self._entering(site).dtype)
            if key not in alike:
                alike[key] = self._clock.linear_us(*key)
            found[site.name] = alike[key]
        return found

    def _us(self, lowered: Lowered) -> dict[str, float]:
        """Of each layer; what one kernel computes is divided among its layers by their rows."""
        found = dict(self._dense_us)
        for names, choice in lowered.choices:
            sites = [self._linear[name] for name in names if name in self._linear]
            us = choice.us(self._tokens(sites[0])) if sites and choice.plan is not None else None
            if us is not None:
                rows = sum(site.rows for site in sites)
                found |= {site.name: us * site.rows / rows for site in sites}
        return found


def trials_for(target: str) -> type[Trials]:
    """What makes variants for a target that a user names."""
    return GpuTrials if target.partition(":")[0] == "cuda" else Trials
