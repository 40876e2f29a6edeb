"""The torch host: a module as the aten graph that torch.export makes of it, kept runnable, trainable and exportable."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import networkx as nx
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from sparsecc import registry
from sparsecc.errors import InputError, ModelError, Refused, UserError
from sparsecc.files import replacing
from sparsecc.graph.base import ALL, Block, Differentiable, Given, Run, Targets, matches
from sparsecc.graph.channels import Channels
from sparsecc.graph.fx import blocks as fx_blocks
from sparsecc.graph.fx import caches, cleanup, records, signature, trace
from sparsecc.graph.fx import channels as fx_channels
from sparsecc.graph.fx import device as fx_device
from sparsecc.graph.fx import sites as fx_sites
from sparsecc.graph.fx import unseen as fx_unseen
from sparsecc.graph.fx import walk as fx_walk
from sparsecc.graph.fx.complex import taken_apart, without_complex
from sparsecc.graph.fx.evaluating import evaluating
from sparsecc.graph.fx.layers import Layer, OperatorLayer, match, stored
from sparsecc.graph.fx.signature import input_nodes, specs, structure
from sparsecc.graph.fx.static import fold_shapes
from sparsecc.graph.fx.tensors import assign, free_name, free_prefix, gathered, order_of, read_node
from sparsecc.graph.inputs import as_tensor, bind
from sparsecc.graph.sites import Attention, Conv1d, Linear, Mlp, Site, Unseen, WeightSite

if TYPE_CHECKING:
    from sparsecc.ops.base import SiteOp
    from sparsecc.ops.block_attention import BlockAttention

S = TypeVar("S", bound=Site)
_NAMES = "sparsecc_sites.json"  # beside the program in a .pt2 file


class FxGraph(Differentiable):
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
        self.name = name
        self.notes = notes
        self.came = came
        self._guards = guards
        self.inputs, self.outputs = specs(module)
        self.structure = structure(module)
        self.device = fx_device.device_of(module)

    @classmethod
    def from_module(cls, module: nn.Module, example_inputs: Any, name: str | None = None) -> FxGraph:
        """Trace a module in eval mode; it keeps its own weights and mode.

        example_inputs: a tuple for forward's positional arguments, a dict for its keyword arguments, or one tensor; torch or
        numpy. Dimensions stay free where the model allows it: see `inputs`. Raises ModelError with torch's reason.
        """
        if not isinstance(module, nn.Module):
            raise ModelError(f"a {type(module).__name__} is no torch.nn.Module")
        check_loaded(module)
        check_kinds(module)
        caches.register()
        caches.check_inputs(example_inputs)
        records.register(example_inputs)
        traced = trace.export(module, _example(example_inputs, fx_device.device_of(module)))
        return cls._of(traced, name or type(module).__name__, module)

    @classmethod
    def from_exported(cls, program: ExportedProgram, name: str | None = None) -> FxGraph:
        """Take a program that torch.export made, with the freedom of shape that it has."""
        return cls._of(trace.unlift(trace.functional(program)), name or "model", program)

    @classmethod
    def _of(cls, traced: trace.Traced, name: str, came: nn.Module | ExportedProgram) -> FxGraph:
        check_loaded(traced.module)
        cleanup.clean(traced.module)
        fx_sites.name_sites(traced.module)
        return cls(traced.module, traced.guards, name, traced.notes, came)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FxGraph:
        """Read what `save` wrote, or any .pt2 file of torch.export. Raises ModelError naming the file."""
        _register_operators()
        caches.register()
        files = {_NAMES: ""}
        try:
            program = torch.export.load(path, extra_files=files)
        except FileNotFoundError:
            raise ModelError(f"{os.fspath(path)}: no such file") from None
        except Exception as error:  # a zip, JSON, pickle or torch error, as the damage has it
            raise ModelError(f"{os.fspath(path)}: no program that torch.export can read: {trace.one_line(error)}") from error
        saved = json.loads(files[_NAMES] or "{}")
        graph = cls.from_exported(program, saved.get("name", Path(path).stem))
        if saved:
            fx_sites.rename_sites(graph.module, saved["sites"])
        return graph

    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        return [site for site in fx_sites.find_sites(self.module) if isinstance(site, kind) and matches(site, targets)]

    def unseen(self) -> list[Unseen]:
        return fx_unseen.find(self.module)

    def set_weight(self, site: WeightSite, weight: Tensor) -> None:
        """A weight that several layers share changes for all of them."""
        layer = self._dense_layer(site)
        old = stored(layer.weight)
        assert old is not None
        if weight.shape != site.shape:
            raise ModelError(f"layer '{site.name}': the new weight has shape {tuple(weight.shape)}, it needs {site.shape}")
        self._assign(old, (weight.T if layer.transposed else weight).to(old).contiguous())

    def set_bias(self, site: WeightSite, bias: Tensor) -> None:
        old = stored(self._dense_layer(site).bias)
        if old is None or bias.shape != old.shape:
            has = "no bias" if old is None else f"a bias of {old.numel()}"
            raise ModelError(f"layer '{site.name}' has {has}, the new one is {tuple(bias.shape)}")
        self._assign(old, bias.to(old).contiguous())

    def source(self, site: Linear) -> Node | None:
        x = self._dense_layer(site).x
        return x if order_of(x) is None else None

    def gather_inputs(self, site: Linear, order: Tensor) -> None:
        layer = self._dense_layer(site)
        layer.node.replace_input_with(layer.x, gathered(self.module, layer.x, order, f"{site.name}.order"))
        self.module.recompile()
        self.set_weight(site, site.weight[:, order.to(site.weight.device)])

    def channels(self, site: Mlp | Attention) -> Channels | Refused:
        return fx_channels.find(self.module, site, self.sites(Linear))

    def narrow(self, site: Mlp | Attention, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        channels = self.channels(site)
        assert isinstance(channels, Channels)
        fx_channels.resize(channels.handle, channels.units, len(units))
        changed = self._resize(channels.reader, weight, bias)
        for writer in channels.writers:
            rows = channels.rows(writer, units)
            changed |= self._resize(writer, writer.weight[rows], None if writer.bias is None else writer.bias[rows])
        fx_channels.refresh(self.module, changed)
        self.module.recompile()

    def _resize(self, site: Linear, weight: Tensor, bias: Tensor | None) -> set[Node]:
        """A weight and bias of another shape, which nothing else reads; the nodes that read them."""
        layer = self._dense_layer(site)
        old = stored(layer.weight)
        assert old is not None
        self._assign(old, (weight.T if layer.transposed else weight).to(old).contiguous())
        if bias is None:
            return {layer.weight}
        old = stored(layer.bias)
        assert old is not None
        assert layer.bias is not None
        self._assign(old, bias.to(old).contiguous())
        return {layer.weight, layer.bias}

    def _assign(self, old: Tensor, new: Tensor) -> None:
        """A tensor in the place of another one, for all that read it."""
        names = [node.target for node in self.module.graph.find_nodes(op="get_attr") if stored(node) is old]
        for tensor_name in dict.fromkeys(map(str, names)):
            assign(self.module, tensor_name, new, trainable=old.requires_grad)

    def replace(self, site: WeightSite | Attention, op: SiteOp | BlockAttention) -> None:
        """The operator's tensors become `<site>.<tensor>`; the weight that was there goes when no other layer reads it."""
        if isinstance(site, Attention):
            self._replace_attention(site, cast("BlockAttention", op))
        else:
            self._replace_layer(site, cast("SiteOp", op))

    def _replace_layer(self, site: WeightSite, op: SiteOp) -> None:
        layer = match(self._node(site))
        assert layer is not None
        weight, node = stored(layer.weight if isinstance(layer, Layer) else layer.tensors[0]), layer.node
        assert weight is not None
        call = op.torch_call(site.name)
        prefix = free_prefix(self.module, site.name, tuple(op.stored.tensors))
        trainable = weight.requires_grad and op.stored.trainable
        reads = [self._store(node, f"{prefix}.{name}", tensor, trainable) for name, tensor in op.stored.tensors.items()]
        bias = self._bias_node(layer, prefix, op.bias)
        x = cleanup.lift_lines(layer) if isinstance(site, Conv1d) and isinstance(layer, Layer) else layer.x
        self._put(node, call.target, (x, reads, bias, *call.options))

    def _replace_attention(self, site: Attention, op: BlockAttention) -> None:
        if site.bound:
            raise UserError(f"attention '{site.name}': {site.bound}")
        node, call = self._node(site), op.torch_call(site.name)
        prefix = free_prefix(self.module, site.name, tuple(op.tensors))
        reads = {name: self._store(node, f"{prefix}.{name}", tensor, False) for name, tensor in op.tensors.items()}
        if node.meta["val"].stride(2) == site.head_dim:  # heads outermost: the operator has tokens outermost, and views may follow
            with self.module.graph.inserting_after(node):
                contiguous = self.module.graph.call_function(trace.aten.contiguous.default, (node,))
            contiguous.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(contiguous, delete_user_cb=lambda user: user is not contiguous)
        args = (*fx_sites.inputs_of(node), reads.get("orders"), reads["keep"], *call.options)
        mask = fx_sites.mask_of(node)
        self._put(node, call.target, args if mask is None else (*args, False, mask))  # torch has none beside a causal one

    def _put(self, node: Node, target: Any, args: tuple[Any, ...]) -> None:
        """A call in the place of a site's node."""
        with self.module.graph.inserting_before(node):
            replacement = self.module.graph.call_function(target, args)
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
        self.module.graph.erase_node(node)
        cleanup.sweep(self.module)

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
        tensors = self._bound(inputs)
        wanted = self._tapped_nodes(taps)
        interpreter = fx_walk.Tapping(self.module, {node: fx_sites.inputs_of(node) for node in wanted.values()}, self._in_place_of(given))
        try:
            flat = interpreter.run(*self._with_constants(tensors), enable_io_processing=False)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(f"the model cannot take these inputs: {trace.one_line(error)}") from error
        outputs = tuple(value for value in flat if isinstance(value, Tensor))
        return Run(outputs, {name: interpreter.taken[node] for name, node in wanted.items()})

    def as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Per set of inputs, the output tensors of the module or program itself, before anything was made of it."""
        assert self.came is not None
        module = self.came if isinstance(self.came, nn.Module) else self.came.module()
        with evaluating(module):
            return [self._called(module, inputs) for inputs in samples]

    def _called(self, module: nn.Module, inputs: Sequence[Any]) -> list[Tensor]:
        args, kwargs = self._structured([tensor.clone() for tensor in self._bound(inputs)])  # a cache among them is written into
        with torch.no_grad():
            returned = module(*args, **kwargs)
        return [leaf.detach() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]

    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        bound = [self._bound(given) for given in inputs]
        names: dict[Node, list[str]] = {}
        for tap, node in self._tapped_nodes(taps).items():
            names.setdefault(node, []).append(tap)
        stops = {node: fx_sites.inputs_of(node) for node in names}
        try:
            for node, entering in fx_walk.walk(self.module, [self._with_constants(tensors) for tensors in bound], stops):
                yield from ((name, entering) for name in names[node])
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(f"the model cannot take these inputs: {trace.one_line(error)}") from error

    def blocks(self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]]) -> Iterator[Block]:
        bound = [self._with_constants(self._bound(given)) for given in inputs]
        try:
            yield from fx_blocks.walk(self.module, bound, self._in_place_of)
        except (RuntimeError, IndexError, ValueError) as error:
            raise InputError(f"the model cannot take these inputs: {trace.one_line(error)}") from error

    def embeddings(self) -> dict[int, Tensor]:
        return signature.embeddings(self.module)

    def site_graph(self) -> nx.DiGraph:
        graph: nx.DiGraph = nx.DiGraph()
        reaching: dict[Node, dict[str, None]] = {}  # the sites whose output a node sees; a dict keeps their order
        for node in self.module.graph.nodes:
            sources = {name: None for source in node.all_input_nodes for name in reaching[source]}
            if fx_sites.is_site(node):
                name = node.meta[fx_sites.SITE]
                graph.add_node(name)
                graph.add_edges_from((source, name) for source in sources)
                sources = {name: None}
            reaching[node] = sources
        return graph

    def copy(self) -> FxGraph:
        shared = {id(tensor): tensor for tensor in self.tensors()}
        with trace.quiet():
            return FxGraph(copy.deepcopy(self.module, shared), self._guards, self.name, self.notes, self.came)

    def forget_file(self) -> None:
        self.came = None

    def tensors(self) -> Iterable[Tensor]:
        return (*self.module.parameters(), *self.module.buffers())

    def to(self, device: str) -> FxGraph:
        with trace.quiet():
            return FxGraph(fx_device.moved(self.module, torch.device(device)), self._guards, self.name, self.notes)

    def specialize(self, example_inputs: Sequence[Any] | Mapping[str, Any]) -> ExportedProgram:
        """The current model for the shapes of these inputs alone: no symbols, no assertions, shape arithmetic and constant masks
        folded; linear, convolution, attention, norms and activations are single operators. Input as for `run`."""
        inputs = self._structured(self._bound(example_inputs))
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
        examples = [_like(node.meta["val"]).to(self.device) for node in input_nodes(self.module)]
        free = [[axis for axis, size in enumerate(spec.shape) if isinstance(size, str)] for spec in self.inputs]
        try:
            return trace.export_free(self.module, self._structured(examples), free)
        except Exception as error:
            raise ModelError(f"{self.name}: torch.export cannot take the rewritten model: {trace.one_line(error)}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """A .pt2 file, in place of an older one only when it is complete; the same model makes the same bytes."""
        names = json.dumps({"name": self.name, "sites": fx_sites.site_names(self.module)})
        program = self.exported()
        for node in program.graph.nodes:
            node.meta.pop("from_node", None)  # a history with addresses in it
        with replacing(path) as temporary, temporary.open("wb") as stream:  # a file by its name would have that in its records'
            torch.export.save(program, stream, extra_files={_NAMES: names})

    def _in_place_of(self, given: Given) -> dict[Node, Tensor]:
        """Tensors for the nodes that read the weights and biases of sites."""
        found: dict[Node, Tensor] = {}
        for node in self.module.graph.nodes if given else ():
            name = node.meta.get(fx_sites.SITE)
            if name in given:
                (weight, bias), layer = given[name], self._dense_at(node)
                found[layer.weight] = weight.T if layer.transposed else weight
                if bias is not None and layer.bias is not None:
                    found[layer.bias] = bias
        return found

    def _node(self, site: Site) -> Node:
        found = [node for node in self.module.graph.nodes if node.meta.get(fx_sites.SITE) == site.name]
        if not found:
            raise ModelError(f"the model has no layer '{site.name}'")
        return found[0]

    def _dense_layer(self, site: WeightSite) -> Layer:
        return self._dense_at(self._node(site))

    def _dense_at(self, node: Node) -> Layer:
        layer = match(node)
        if not isinstance(layer, Layer):
            name = node.meta[fx_sites.SITE]
            raise ModelError(f"layer '{name}' is {self.sites(WeightSite, (name,))[0].word}; its weight is changed before that")
        return layer

    def _store(self, before: Node, name: str, tensor: Tensor, trainable: bool) -> Node:
        assign(self.module, name, tensor, trainable=trainable)
        return read_node(self.module, before, name)

    def _bias_node(self, layer: Layer | OperatorLayer, prefix: str, bias: Tensor | None) -> Node | None:
        """The node of the operator's bias: the layer's own when it is that tensor still."""
        old = stored(layer.bias)
        if bias is None:
            return None
        if old is not None and old.data_ptr() == bias.data_ptr() and old.shape == bias.shape:
            return layer.bias
        return self._store(layer.node, free_name(self.module, f"{prefix}.bias"), bias, old is None or old.requires_grad)

    def _tapped_nodes(self, taps: Sequence[str]) -> dict[str, Node]:
        if not taps:
            return {}
        nodes = {node.meta[fx_sites.SITE]: node for node in self.module.graph.nodes if fx_sites.is_site(node)}
        if any(tap not in nodes for tap in taps):
            nodes |= {mlp.name: self._node(mlp.first) for mlp in self.sites(Mlp)}
        for tap in taps:
            if tap not in nodes:
                raise UserError(f"tap {tap!r} is no site{registry.did_you_mean(tap, list(nodes))}")
        return {tap: nodes[tap] for tap in taps}

    def _bound(self, inputs: Sequence[Any] | Mapping[str, Any]) -> list[Tensor]:
        """Checked, in the model's order, on its device."""
        tensors = bind(self.inputs, inputs)
        self._check_guards(tensors)
        return [tensor.to(self.device) for tensor in tensors]

    def _check_guards(self, tensors: Sequence[Tensor]) -> None:
        if self._guards is None:
            return
        try:
            self._guards(*self._with_constants(tensors))
        except AssertionError as error:
            condition = trace.one_line(error).removeprefix("Guard failed: ")
            raise InputError(f"the model was traced under the condition {condition}; trace it again with such inputs") from None

    def _with_constants(self, tensors: Sequence[Tensor]) -> list[Any]:
        """The flat arguments of the graph: constants that the example inputs held beside the tensors."""
        remaining = iter(tensors)
        values = [node.meta.get("val") for node in self.module.graph.find_nodes(op="placeholder")]
        return [next(remaining) if isinstance(value, Tensor) else value for value in values]

    def _structured(self, tensors: Sequence[Tensor]) -> trace.Inputs:
        """Arguments and keyword arguments as the original module took them."""
        return pytree.tree_unflatten(self._with_constants(tensors), self.module._in_spec)  # type: ignore[arg-type]


def check_loaded(module: nn.Module) -> None:
    """Raises ModelError for a weight that is a shape alone."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta or isinstance(tensor, FakeTensor):
            raise ModelError(f"weight '{name}' is on the meta device, it has a shape and no values; load the weights first")


def check_kinds(module: nn.Module) -> None:
    """Raises ModelError for modules whose code torch.export does not see."""
    for name, part in module.named_modules():
        place = f"module '{name}'" if name else "the model"
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(f"{place} is TorchScript, which cannot be traced; give the nn.Module that it was made from")
        if type(part).__module__.startswith("torch.ao.nn.quantized"):
            raise ModelError(f"{place} is quantized by torch ({type(part).__name__}); give the float model, and quantize in the recipe")


def _example(inputs: Any, device: torch.device) -> trace.Inputs:
    def tensor(leaf: Any) -> Any:
        if not hasattr(leaf, "__array__") and not isinstance(leaf, Tensor):
            return leaf
        given = as_tensor(leaf, "an example input")
        if given.is_meta or isinstance(given, FakeTensor):
            raise InputError("an example input is a meta tensor; pass one that holds all its values")
        if given.layout is not torch.strided:
            raise InputError(f"an example input is a {str(given.layout).removeprefix('torch.')} tensor; pass one that holds all its values")
        return given.to(device)

    if isinstance(inputs, Mapping):
        return (), pytree.tree_map(tensor, dict(inputs))
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    return pytree.tree_map(tensor, args), {}


def _like(value: Tensor) -> Tensor:
    """Zeros in the shape that the model was traced with."""
    sizes = [size.node.hint if isinstance(size, torch.SymInt) else size for size in value.shape]
    return torch.zeros(sizes, dtype=value.dtype)


def _register_operators() -> None:
    for name in registry.members("ops"):
        registry.load("ops", name)
