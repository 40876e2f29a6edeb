"""The torch host: a module as the aten graph that torch.export makes of it, kept runnable, trainable and exportable."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import networkx as nx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from sparsecc import ops
from sparsecc.errors import ModelError, Refused
from sparsecc.files import replacing
from sparsecc.graph.abilities import Specializable
from sparsecc.graph.base import ALL, Block, Differentiable, Given, Run, Targets, TensorSpec, matches
from sparsecc.graph.channels import Channels
from sparsecc.graph.fx import blocks, caches, channels, cleanup, records, rewriting, signature, sites, state, trace, unseen, walk
from sparsecc.graph.fx.arguments import Arguments, evaluated
from sparsecc.graph.fx.complex import taken_apart, without_complex
from sparsecc.graph.fx.device import device_of, moved
from sparsecc.graph.fx.evaluating import evaluating
from sparsecc.graph.fx.layers import Layer, match
from sparsecc.graph.fx.opening import check_kinds, check_loaded, example
from sparsecc.graph.fx.static import fold_shapes
from sparsecc.graph.fx.tensors import order_of
from sparsecc.graph.sites import Attention, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.ops.base import Operator

S = TypeVar("S", bound=Site)
_NAMES = "sparsecc_sites.json"  # beside the program in a .pt2 file


class FxGraph(Differentiable, Specializable):
    """module: the model as it is now, called as the original was.  structure: how flat outputs make up what it returns
    (`runtime.outputs`).  name: the model's, for reports.  device: where it runs.  came: what it was made of, until `forget_file`."""

    host = "fx"

    def __init__(
        self,
        module: GraphModule,
        guards: nn.Module | None,
        name: str,
        notes: tuple[str, ...] = (),
        came: nn.Module | ExportedProgram | None = None,
    ) -> None:
        """module: from torch.export, clean and with its sites named; `from_module` and `from_exported` make one.
        notes: what a report says of the model."""
        self.module = module
        self.name = self.where = name
        self.notes = notes
        self.came = came
        self._guards = guards
        self._specs = signature.specs(module)
        self.structure = signature.structure(module)
        self.device = device_of(module)
        self._arguments = Arguments(module, guards, self.inputs, self.device)

    @classmethod
    def from_module(cls, module: nn.Module, example_inputs: Any, name: str | None = None, stateful: bool = False) -> FxGraph:
        """Trace a module in eval mode; it keeps its own weights and mode.

        example_inputs: a tuple for forward's positional arguments, a dict for its keyword arguments, or one tensor; torch or
        numpy. Dimensions stay free where the model allows it: see `inputs`. stateful: take a module that writes its own buffers, too; they
        are as they were afterwards. Raises ModelError with torch's reason.
        """
        if not isinstance(module, nn.Module):
            raise ModelError(f"a {type(module).__name__} is no torch.nn.Module")
        check_loaded(module)
        check_kinds(module)
        caches.register()
        caches.check_inputs(example_inputs)
        records.register(example_inputs)
        traced = trace.export(module, example(example_inputs, device_of(module)), stateful)
        return cls._of(traced, name or type(module).__name__, module, stateful)

    @classmethod
    def from_exported(cls, program: ExportedProgram, name: str | None = None, stateful: bool = False) -> FxGraph:
        """Take a program that torch.export made, with the freedom of shape that it has. stateful: as for `from_module`."""
        return cls._of(trace.unlift(trace.functional(program), stateful), name or "model", program, stateful)

    @classmethod
    def _of(cls, traced: trace.Traced, name: str, came: nn.Module | ExportedProgram, stateful: bool) -> FxGraph:
        check_loaded(traced.module)
        if stateful:
            cleanup.refuse_input_writes(traced.module)
        cleanup.clean(traced.module)
        sites.name_sites(traced.module)
        return cls(traced.module, traced.guards, name, traced.notes, came)

    @classmethod
    def load(cls, path: str | PathLike[str], stateful: bool = False) -> FxGraph:
        """Read what `save` wrote, or any .pt2 file of torch.export. stateful: as for `from_module`. Raises ModelError naming the file."""
        ops.register()
        caches.register()
        files = {_NAMES: ""}
        try:
            program = torch.export.load(path, extra_files=files)
        except FileNotFoundError:
            raise ModelError(f"{os.fspath(path)}: no such file") from None
        except Exception as error:  # a zip, JSON, pickle or torch error, as the damage has it
            raise ModelError(f"{os.fspath(path)}: no program that torch.export can read: {trace.one_line(error)}") from error
        saved = json.loads(files[_NAMES] or "{}")
        graph = cls.from_exported(program, saved.get("name", Path(path).stem), stateful)
        if saved:
            sites.rename_sites(graph.module, saved["sites"])
        return graph

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._specs[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._specs[1]

    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        return [site for site in sites.find_sites(self.module) if isinstance(site, kind) and matches(site, targets)]

    def unseen(self) -> list[Unseen]:
        return unseen.find(self.module)

    def _now(self, site: Site) -> Site | None:
        return sites.site_named(self.module, site.name)

    def _set_weight(self, site: WeightSite, weight: Tensor) -> None:
        rewriting.set_weight(self.module, site, weight)

    def _set_bias(self, site: WeightSite, bias: Tensor) -> None:
        rewriting.set_bias(self.module, site, bias)

    def _source(self, site: Linear) -> Node | None:
        x = rewriting.layer_of(self.module, site).x
        return x if order_of(x) is None else None

    def _gather_inputs(self, site: Linear, order: Tensor) -> None:
        rewriting.gather_inputs(self.module, site, order)

    def _replace(self, site: Site, op: Operator) -> None:
        rewriting.replace(self.module, site, op)

    def _channels(self, site: Mlp | Attention) -> Channels | Refused:
        return channels.find(self.module, site, self.sites(Linear))

    def _narrow(self, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        rewriting.narrow(self.module, channels, units, weight, bias)

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        """Also raises InputError for shapes that the trace does not cover, with the condition that fails."""
        with torch.no_grad():
            run = self.run_with(inputs, {}, taps)
        return replace(run, outputs=tuple(output.detach() for output in run.outputs))  # parameters may be among them

    def run_with(
        self,
        inputs: Sequence[Any] | Mapping[str, Any],
        given: Given,
        taps: Sequence[str] = (),
    ) -> Run:
        tensors = self._arguments.bound(inputs)
        wanted = self._tapped_nodes(taps)
        interpreter = walk.Tapping(self.module, {node: sites.inputs_of(node) for node in wanted.values()}, self._in_place_of(given))
        with evaluated(self.where), state.restored(self.module):
            flat = interpreter.run(*self._arguments.flat(tensors), enable_io_processing=False)
        outputs = tuple(value for value in flat if isinstance(value, Tensor))
        return Run(outputs, {name: interpreter.taken[node] for name, node in wanted.items()})

    def _as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        module = self.came if isinstance(self.came, nn.Module) else self.came.module()
        with evaluating(module):
            return [self._called(module, inputs) for inputs in samples]

    def _called(self, module: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
        tensors = [tensor.clone() for tensor in self._arguments.bound(inputs)]  # a cache among them is written into
        args, kwargs = self._arguments.structured(tensors)
        with torch.no_grad(), state.restored(module) if state.written(self.module) else nullcontext():
            returned = module(*args, **kwargs)
        return [leaf.detach() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]

    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        bound = [self._arguments.bound(given) for given in inputs]
        names: dict[Node, list[str]] = {}
        for tap, node in self._tapped_nodes(taps).items():
            names.setdefault(node, []).append(tap)
        stops = {node: sites.inputs_of(node) for node in names}
        with evaluated(self.where), state.restored(self.module):
            for node, entering in walk.walk(self.module, [self._arguments.flat(tensors) for tensors in bound], stops):
                yield from ((name, entering) for name in names[node])

    def blocks(self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]]) -> Iterator[Block]:
        bound = [self._arguments.flat(self._arguments.bound(given)) for given in inputs]
        with evaluated(self.where), state.restored(self.module):
            yield from blocks.walk(self.module, bound, self._in_place_of)

    def embeddings(self) -> dict[int, Tensor]:
        return signature.embeddings(self.module)

    def site_graph(self) -> nx.DiGraph:
        graph: nx.DiGraph = nx.DiGraph()
        reaching: dict[Node, dict[str, None]] = {}  # the sites whose output a node sees; a dict keeps their order
        for node in self.module.graph.nodes:
            sources = {name: None for source in node.all_input_nodes for name in reaching[source]}
            if sites.is_site(node):
                name = node.meta[sites.SITE]
                graph.add_node(name)
                graph.add_edges_from((source, name) for source in sources)
                sources = {name: None}
            reaching[node] = sources
        return graph

    def copy(self) -> FxGraph:
        own = {id(counter) for counter in state.counters(self.module)}
        shared = {id(tensor): tensor for tensor in self.tensors() if id(tensor) not in own}
        with trace.quiet():
            return FxGraph(copy.deepcopy(self.module, shared), self._guards, self.name, self.notes, self.came)

    def tensors(self) -> Iterable[Tensor]:
        return (*self.module.parameters(), *self.module.buffers())

    def to(self, device: str) -> FxGraph:
        with trace.quiet():
            return FxGraph(moved(self.module, torch.device(device)), self._guards, self.name, self.notes)

    def specialize(self, example_inputs: Sequence[Any] | Mapping[str, Any]) -> ExportedProgram:
        """The model is exported twice for each set of shapes, once to fold what depends on shapes and once for a program of what is
        left, and then imported by TVM: the price of that importer, which takes programs alone."""
        inputs = self._arguments.structured(self._arguments.bound(example_inputs))
        with torch.no_grad():  # torch has no gradients of some operators of complex numbers, and traces none of them then
            program = trace.export_fixed(self.module, inputs)
            with trace.quiet():
                program = taken_apart(program)
            static = trace.unlift(program).module
            fold_shapes(static)
            result = trace.export_fixed(without_complex(static), inputs)
        cleanup.drop_assertions(result.graph_module)
        result.graph_module.recompile()
        return result

    def exported(self) -> ExportedProgram:
        """The current model as a program with the freedom of shape that `inputs` tells."""
        examples = [_like(node.meta["val"]).to(self.device) for node in signature.input_nodes(self.module)]
        free = [[axis for axis, size in enumerate(spec.shape) if isinstance(size, str)] for spec in self.inputs]
        try:
            return trace.export_free(self.module, self._arguments.structured(examples), free)
        except Exception as error:
            raise ModelError(f"{self.name}: torch.export cannot take the rewritten model: {trace.one_line(error)}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """A .pt2 file, in place of an older one only when it is complete; the same model makes the same bytes."""
        names = json.dumps({"name": self.name, "sites": sites.site_names(self.module)})
        program = self.exported()
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)  # a history with addresses in it
        with replacing(path) as temporary, temporary.open("wb") as stream:  # a file by its name would have that in its records'
            torch.export.save(program, stream, extra_files={_NAMES: names})

    def check_when_called(self, module: GraphModule) -> None:
        """Let a graph that was made of this one check the conditions under which it was traced, with an AssertionError that names one."""
        if self._guards is None or module.graph.find_nodes(op="call_module", target="_guards_fn"):
            return
        module.add_submodule("_guards_fn", self._guards)
        inputs = list(module.graph.find_nodes(op="placeholder"))
        with module.graph.inserting_after(inputs[-1]):
            module.graph.call_module("_guards_fn", tuple(inputs))
        module.recompile()

    def _in_place_of(self, given: Given) -> dict[Node, Tensor]:
        """Tensors for the nodes that read the weights and biases of sites."""
        found: dict[Node, Tensor] = {}
        for node in self.module.graph.nodes if given else ():
            name = node.meta.get(sites.SITE)
            if name in given:
                (weight, bias), layer = given[name], match(node)
                if not isinstance(layer, Layer):
                    raise self._not_dense(self.sites(WeightSite, (name,))[0])
                found[layer.weight] = weight.T if layer.transposed else weight
                if bias is not None and layer.bias is not None:
                    found[layer.bias] = bias
        return found

    def _tapped_nodes(self, taps: Sequence[str]) -> dict[str, Node]:
        if not taps:
            return {}
        nodes = {node.meta[sites.SITE]: node for node in self.module.graph.nodes if sites.is_site(node)}
        if any(tap not in nodes for tap in taps):
            nodes |= {mlp.name: nodes[mlp.first.name] for mlp in self.sites(Mlp)}
        for tap in taps:
            if tap not in nodes:
                raise self._unknown(tap)
        return {tap: nodes[tap] for tap in taps}


def _like(value: Tensor) -> Tensor:
    """Zeros in the shape that the model was traced with."""
    sizes = [size.node.hint if isinstance(size, torch.SymInt) else size for size in value.shape]
    return torch.zeros(sizes, dtype=value.dtype)
