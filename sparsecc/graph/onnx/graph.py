"""The ONNX host: a model file that passes can read and rewrite, and that stays a model file for any onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, TypeVar, cast

import networkx as nx
import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from sparsecc.errors import InputError, ModelError, Refused, UserError
from sparsecc.graph.base import ALL, Graph, Run, Targets, TensorSpec, matches
from sparsecc.graph.channels import Channels
from sparsecc.graph.inputs import bind
from sparsecc.graph.onnx import attention, hold, sparse
from sparsecc.graph.onnx import channels as onnx_channels
from sparsecc.graph.onnx import io as onnx_io
from sparsecc.graph.onnx import unseen as onnx_unseen
from sparsecc.graph.onnx import values as onnx_values
from sparsecc.graph.onnx.attention import AttentionNodes, Tap
from sparsecc.graph.onnx.cleanup import clean
from sparsecc.graph.onnx.fold import constant, free_name
from sparsecc.graph.onnx.run import Runner
from sparsecc.graph.onnx.sites import WeightNodes, find
from sparsecc.graph.onnx.walk import Walk, read_by
from sparsecc.graph.sites import Attention, Conv1d, Conv2d, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from sparsecc.ops.base import SiteOp
    from sparsecc.ops.block_attention import BlockAttention

S = TypeVar("S", bound=Site)
_SAME_VALUES = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})
Shapes = Mapping[str, Sequence[int]]


class OnnxGraph(Graph):
    """An ONNX model, simplified when it was read (see `onnx_cleanup`).

    model: the onnx_ir model; edit it through this class only.  where: how errors call it.  came: the model as the file has it, to be
    compared with.  notes: what callers have to know of how it was read.
    """

    host = "onnx"

    def __init__(self, model: ir.Model, where: str = "the model", came: ir.Model | None = None, notes: Sequence[str] = ()) -> None:
        self.model = model
        self.where = where
        self.came = came
        self.notes = tuple(notes)
        self._changed()

    @classmethod
    def from_file(
        cls, path: str | PathLike[str], input_shapes: Shapes | None = None, *, standard: bool = False, numbers: bool = False
    ) -> OnnxGraph:
        """Read a file, its external data memory-mapped. input_shapes: fixes these inputs' shapes.  standard: see `clean`.  numbers: leave
        out what the model returns besides tensors of numbers.

        Raises ModelError, naming the file, for one that is damaged, unknown to ONNX or incomplete; InputError for wrong shapes.
        """
        return cls._read(onnx_io.read(path), fspath(path), input_shapes, standard, numbers)

    @classmethod
    def from_proto(
        cls, proto: onnx.ModelProto, input_shapes: Shapes | None = None, *, standard: bool = False, numbers: bool = False
    ) -> OnnxGraph:
        """As `from_file`, for a model in memory, which is left as it is. Its weights may not be in other files."""
        where = f"model '{proto.graph.name}'" if proto.graph.name else "the model"
        copied = onnx.ModelProto()
        copied.CopyFrom(proto)
        return cls._read(onnx_io.from_proto(copied, where), where, input_shapes, standard, numbers)

    @classmethod
    def _read(cls, came: ir.Model, where: str, input_shapes: Shapes | None, standard: bool, numbers: bool) -> OnnxGraph:
        onnx_values.take_defaults(came)
        notes = [*came.meta.get(onnx_io.NOTES, []), *(onnx_values.keep_numbers(came, where) if numbers else [])]
        onnx_values.require_ranks(came, where, input_shapes or {})
        shapes = _checked_shapes(came, input_shapes) if input_shapes else None
        model = clean(came, where, shapes, standard=standard)
        sparse.complete(came)  # whose functions were left out when it was read, so that it runs
        return cls(model, where, came, notes)

    def fixed(self, input_shapes: Shapes) -> OnnxGraph:
        """A copy for these input shapes only, in standard operators, with all arithmetic on shapes folded, however large that makes it;
        sites keep their names.

        Raises InputError for a name, rank or size that the model does not take.
        """
        shapes = _checked_shapes(self.model, input_shapes)
        return OnnxGraph(clean(self.model, self.where, shapes, standard=True, growth=hold.LARGEST), self.where)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:  # type: ignore[override]
        return tuple(onnx_values.spec(value) for value in self.model.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:  # type: ignore[override]
        return tuple(onnx_values.spec(value) for value in self.model.graph.outputs)

    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:  # type: ignore[assignment]
        return [site for site in self._all_sites() if isinstance(site, kind) and matches(site, targets)]

    def unseen(self) -> list[Unseen]:
        return onnx_unseen.find(self.model, self._all_sites())

    def set_weight(self, site: WeightSite, weight: Tensor) -> None:
        """Raises UserError for a site whose weight is not dense any more, ValueError for another shape than the site's."""
        layer = self._layer(site)
        if sparse.is_sparse(layer.node):
            raise UserError(f"layer '{site.name}' is {self.sites(WeightSite, (site.name,))[0].word}; set weights before that")
        if weight.shape != site.shape:
            raise ValueError(f"layer '{site.name}': the new weight is {tuple(weight.shape)}, the layer's {site.shape}")
        self._put_weight(site, layer, weight)
        self._changed()

    def _put_weight(self, site: WeightSite, layer: WeightNodes, weight: Tensor) -> None:
        """In the place of a dense one."""
        stored = weight.detach().to(site.weight.dtype)
        if layer.shared or layer.node.inputs[1] is not layer.weight:  # through a Transpose: the layer gets a weight of its own
            stored = stored.t() if layer.node.op_type == "MatMul" or not layer.node.attributes.get_int("transB", 0) else stored
            value = sparse.initializer(stored, self._free_name(f"{site.name}.weight"))
            self.model.graph.register_initializer(value)
            before = layer.node.inputs[1]
            layer.node.replace_input_with(1, value)
            self._drop_unused([before])
        else:
            _fill(layer.weight, stored.t() if layer.transposed else stored)

    def set_bias(self, site: WeightSite, bias: Tensor) -> None:
        """Raises ValueError for a site without a bias, and for another shape than it has."""
        layer = self._layer(site)
        if layer.bias is None or site.bias is None or bias.shape != site.bias.shape:
            raise ValueError(f"layer '{site.name}' has no bias of shape {tuple(bias.shape)}")
        self._put_bias(site, layer, bias)
        self._changed()

    def _put_bias(self, site: WeightSite, layer: WeightNodes, bias: Tensor) -> None:
        assert layer.bias is not None
        assert site.bias is not None
        *ones, _ = layer.bias.const_value.shape.numpy()  # type: ignore[union-attr]  # as the Add wants it
        stored = bias.detach().to(site.bias.dtype).reshape(*ones, -1)
        if len(layer.bias.uses()) > 1 or not layer.bias.is_initializer():
            reader = layer.bias_add or layer.node
            value = sparse.initializer(stored, self._free_name(f"{site.name}.bias"))
            self.model.graph.register_initializer(value)
            reader.replace_input_with(list(reader.inputs).index(layer.bias), value)
        else:
            _fill(layer.bias, stored)

    def source(self, site: Linear) -> ir.Value | None:
        x = self._layer(site).x
        return None if _order(x.producer()) is not None else x

    def gather_inputs(self, site: Linear, order: Tensor) -> None:
        layer = self._layer(site)
        layer.node.replace_input_with(0, self._gathered(layer.x, order, f"{site.name}.order"))
        self._put_weight(site, layer, site.weight[:, order])
        self._changed()

    def _gathered(self, x: ir.Value, order: Tensor, name: str) -> ir.Value:
        """x with its last axis in another order, as a node makes it that may be there already."""
        for use in x.uses():
            known = _order(use.node)
            if known is not None and np.array_equal(known, order.numpy()):
                return use.node.outputs[0]
        index = sparse.initializer(order, self._free_name(name))
        self.model.graph.register_initializer(index)
        node = ir.node("Gather", [x, index], {"axis": -1}, num_outputs=1)
        node.outputs[0].shape, node.outputs[0].type = x.shape, x.type
        producer = x.producer()
        if producer is None:
            self.model.graph.insert_before(self.model.graph[0], node)
        else:
            self.model.graph.insert_after(producer, node)
        return node.outputs[0]

    def channels(self, site: Mlp | Attention) -> Channels | Refused:
        return onnx_channels.find(self.model, cast("Mlp | Attention", self._named(site.name)), self.sites(Linear))

    def narrow(self, site: Mlp | Attention, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        channels = self.channels(site)
        assert isinstance(channels, Channels)
        shapes = [node.inputs[1] for node in channels.handle.shaped]
        onnx_channels.resize(self.model.graph, channels.handle, channels.units, len(units))
        self._resize(channels.reader, weight, bias)
        for writer in channels.writers:
            rows = channels.rows(writer, units)
            self._resize(writer, writer.weight[rows], None if writer.bias is None else writer.bias[rows])
        self._drop_unused(shapes)
        self._changed()

    def _resize(self, site: Linear, weight: Tensor, bias: Tensor | None) -> None:
        """A weight and bias of another shape."""
        layer: WeightNodes = site.handle
        self._put_weight(site, layer, weight)
        product = layer.node.outputs[0]
        if product.shape is not None:
            product.shape = ir.Shape([*product.shape[:-1], len(weight)])
        if bias is not None:
            self._put_bias(site, layer, bias)

    def replace(self, site: WeightSite | Attention, op: SiteOp | BlockAttention) -> None:
        """Raises UserError when the model's opset is too old for the operator, ValueError for an operator of another shape."""
        if isinstance(site, Attention):
            self._replace_attention(site, cast("BlockAttention", op))
        else:
            self._replace_layer(site, cast("SiteOp", op))

    def _replace_layer(self, site: WeightSite, op: SiteOp) -> None:
        if (op.stored.rows, op.stored.cols) != (site.rows, site.cols) or (isinstance(site, Conv2d) and site.groups != 1):
            raise ValueError(f"layer '{site.name}' is {site.rows}×{site.cols}, the operator {op.stored.rows}×{op.stored.cols}")
        layer, graph = self._layer(site), self.model.graph
        last, unused = layer.nodes[-1], [value for node in layer.nodes for value in node.inputs if value is not layer.x]
        prefix = f"{site.name}.{op.stored.word}"
        node = sparse.make_node(op, site.name, layer.x, prefix, graph.opset_imports[""])
        node.name = layer.node.name
        nodes = sparse.in_lines(node, layer.x, site.name) if isinstance(site, Conv1d) and not layer.in_line else [node]
        ir.convenience.replace_nodes_and_values(graph, last, list(reversed(layer.nodes)), nodes, [layer.output], nodes[-1].outputs)
        self._drop_unused(unused)
        self._complete([*node.inputs[1:], *nodes[0].inputs[1:2]] if len(nodes) > 1 else node.inputs[1:])

    def _replace_attention(self, site: Attention, op: BlockAttention) -> None:
        if site.bound:
            raise UserError(f"attention '{site.name}': {site.bound}")
        found, graph = self._named(site.name).handle, self.model.graph
        assert isinstance(found, AttentionNodes)
        inside = {value for node in found.nodes for value in node.outputs}
        unused = [value for node in found.nodes for value in node.inputs if value not in inside]
        nodes = attention.replacement(found, op, site.name, graph.opset_imports[""])
        ir.convenience.replace_nodes_and_values(
            graph, found.nodes[-1], list(reversed(found.nodes)), nodes, [found.output], nodes[-1].outputs
        )
        self._drop_unused([value for value in unused if value not in (found.q.value, found.k.value, found.v.value)])
        self._complete([value for node in nodes for value in node.inputs if value is not None and value.const_value is not None])

    def _complete(self, constants: Sequence[ir.Value | None]) -> None:
        """Take in what new nodes read, and the functions that they call."""
        for value in constants:
            assert value is not None
            value.name = value.const_value.name = self._free_name(value.name or "")  # type: ignore[union-attr]
            self.model.graph.register_initializer(value)
        sparse.complete(self.model)
        self._changed()

    def run(self, inputs: Sequence[Any] | Mapping[str, Any], taps: Sequence[str] = ()) -> Run:
        """Outputs that are no tensors of numbers are what onnxruntime gives."""
        feeds = self._feeds(inputs)
        tapped = {name: _taps(self._named(name)) for name in taps}
        outputs = [value.name or "" for value in self.model.graph.outputs]
        wanted = outputs + [tap.value.name or "" for found in tapped.values() for tap in found]
        if self._runner is None:
            self._runner = Runner(self.model, self.where)
        arrays = self._runner.run(feeds, wanted)
        results = {name: onnx_values.as_tensor(value) for name, value in arrays.items()}
        entered = {name: tuple(tap.shaped(results[tap.value.name or ""]) for tap in found) for name, found in tapped.items()}
        return Run(tuple(results[name] for name in outputs), entered)

    def _feeds(self, inputs: Sequence[Any] | Mapping[str, Any]) -> dict[str, np.ndarray]:
        specs = self.inputs
        return {spec.name: tensor.contiguous().cpu().numpy() for spec, tensor in zip(specs, bind(specs, inputs), strict=True)}

    def stock(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs as an onnxruntime without any options gives them on this machine."""
        names = [value.name or "" for value in self.model.graph.outputs]
        found = Runner(self.model, self.where, exact=False).run(self._feeds(inputs), names)
        return [found[name] for name in names]

    def as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Per set of inputs, the outputs of the file itself, before anything was made of it. Raises what `run` raises."""
        assert self.came is not None
        self._runner = None  # two sessions at once would hold the weights twice
        names = [value.name or "" for value in self.model.graph.outputs]
        runner = Runner(self.came, self.where, packed=False)
        found = [runner.run(self._feeds(inputs), names) for inputs in samples]
        return [[values[name] for name in names] for values in found]

    @property
    def random(self) -> str:
        """An operator that gives other numbers each time, "" where there is none."""
        drawn = [node for node in self.model.graph.all_nodes() if node.op_type in hold.RANDOM and "seed" not in node.attributes]
        return f"{drawn[0].op_type} (at '{drawn[0].name or drawn[0].outputs[0].name}')" if drawn else ""

    def require_opens(self) -> None:
        """Raises ModelError when no onnxruntime can take the model."""
        Runner(self.model, self.where, packed=False).open()

    def came_opens(self) -> bool:
        """Whether the onnxruntime of this machine takes the file itself."""
        try:
            Runner(self.came if self.came is not None else self.model, self.where, packed=False).open()
        except ModelError:
            return False
        return True

    def walk(
        self, inputs: Sequence[Sequence[Any] | Mapping[str, Any]], taps: Sequence[str]
    ) -> Iterator[tuple[str, list[tuple[Tensor, ...]]]]:
        feeds = [self._feeds(given) for given in inputs]
        order = {site.name: number for number, site in enumerate(self._all_sites())}
        for name in taps:
            self._named(name)
        walked = Walk(self.model, feeds, self.where)
        for name in sorted(set(taps), key=order.__getitem__):
            found = _taps(self._named(name))  # anew: a weight that was set has changed the graph
            values = walked.reach([tap.value for tap in found])
            yield name, [tuple(tap.shaped(torch.from_numpy(x)) for tap, x in zip(found, entering, strict=True)) for entering in values]

    def embeddings(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        places = {value: place for place, value in enumerate(self.model.graph.inputs)}
        for node in self.model.graph:
            if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
                table, place = constant(node.inputs[0]), places.get(_reshaped(node.inputs[1]))  # type: ignore[arg-type]
                if place is not None and table is not None and table.ndim == 2:
                    found.setdefault(place, torch.tensor(table))
        return found

    def tensors(self) -> Iterator[Tensor]:
        for value in self.model.graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype != ir.DataType.STRING and value.const_value.size:
                yield torch.frombuffer(bytearray(value.const_value.tobytes()), dtype=torch.uint8)

    def site_graph(self) -> nx.DiGraph:
        graph = nx.DiGraph()
        owner: dict[ir.Node, str] = {}
        for site in self._all_sites():
            if isinstance(site.handle, (WeightNodes, AttentionNodes)):
                graph.add_node(site.name)
                owner.update(dict.fromkeys(site.handle.nodes, site.name))
        feeds: dict[ir.Value, dict[str, None]] = {}  # which sites' outputs a value is made of; a dict keeps the order
        for node in self.model.graph:
            sources = {name: None for value in read_by(node) for name in feeds.get(value, ())}
            here = owner.get(node)
            if here is not None:
                graph.add_edges_from((source, here) for source in sources if source != here)
            feeds.update(dict.fromkeys(node.outputs, sources if here is None else {here: None}))
        return graph

    def copy(self) -> OnnxGraph:
        return OnnxGraph(self.model.clone(), self.where, self.came, self.notes)

    def forget_file(self) -> None:
        self.came = None

    def save(self, path: str | PathLike[str], external: bool | None = None) -> None:
        """Write a .onnx file, atomically. external: weights in a file beside it, as `onnx_write` says; None: only when too large."""
        onnx_io.write(onnx_values.with_defaults(self.model), path, external)

    def proto(self) -> onnx.ModelProto:
        """The model with the ai.sparsecc functions it calls. Above 2 GB a ModelProto can be used but not serialized; `save` can."""
        proto = ir.serde.serialize_model(onnx_values.with_defaults(self.model))
        onnx_io.declare_maps(proto, self.model)
        return proto

    def _all_sites(self) -> list[Site]:
        if self._found is None:
            self._found = find(self.model)
        return self._found

    def _named(self, name: str) -> Site:
        found = next((site for site in self._all_sites() if site.name == name), None)
        if found is None:
            raise UserError(f"no site {name!r} in {self.where}{did_you_mean(name, [site.name for site in self._all_sites()])}")
        return found

    def _layer(self, site: WeightSite) -> WeightNodes:
        """The site's nodes in this graph, whichever copy the site was read from and whatever else was rewritten since."""
        handle = site.handle
        if isinstance(handle, WeightNodes) and handle.node.graph is self.model.graph:
            return handle
        found = self._named(site.name)
        if not isinstance(found.handle, WeightNodes):
            raise UserError(f"site '{site.name}' is a {found.kind} in {self.where}, it has no weight of its own")
        return found.handle

    def _changed(self) -> None:
        self._found: list[Site] | None = None
        self._runner: Runner | None = None

    def _free_name(self, name: str) -> str:
        return free_name(self.model.graph, name)

    def _drop_unused(self, values: Sequence[ir.Value | None]) -> None:
        """Remove initializers that nothing reads any more, and a Transpose or Concat that led from some."""
        graph = self.model.graph
        for value in values:
            if value is None or value.uses() or value.is_graph_output():
                continue
            producer = value.producer()
            if producer is not None and producer.op_type in ("Transpose", "Concat") and producer.graph is graph:
                sources = list(producer.inputs)
                graph.remove(producer, safe=True)
                self._drop_unused(sources)
            elif value.is_initializer():
                del graph.initializers[value.name]  # type: ignore[arg-type]


def _fill(value: ir.Value, tensor: Tensor) -> None:
    """Another tensor for an initializer."""
    value.const_value = sparse.initializer(tensor, value.name or "").const_value
    value.shape = ir.Shape(tensor.shape)


def _taps(site: Site) -> tuple[Tap, ...]:
    if isinstance(site, Mlp):
        return _taps(site.first)
    if isinstance(site.handle, AttentionNodes):
        return (site.handle.q, site.handle.k, site.handle.v)
    return (Tap(site.handle.x),)


def _checked_shapes(model: ir.Model, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    specs = {value.name or "": onnx_values.spec(value) for value in model.graph.inputs}
    unknown = {value.name for value in model.graph.inputs if value.shape is None}
    for name, shape in shapes.items():
        if name not in specs:
            raise InputError(f"input_shapes: no input {name!r}{did_you_mean(name, list(specs))}")
        wanted = tuple(f"{name}_d{axis}" for axis in range(len(shape))) if name in unknown else specs[name].shape
        fits = len(shape) == len(wanted) and all(
            b == a or (isinstance(a, str) and 0 <= b < 2**31) for a, b in zip(wanted, shape, strict=True)
        )
        if not fits:
            raise InputError(f"input_shapes: {name!r} takes ({', '.join(map(str, wanted))}), not ({', '.join(map(str, shape))})")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _order(node: ir.Node | None) -> np.ndarray | None:
    """The constant order in which a node gathers along the last axis."""
    if node is None or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != -1:
        return None
    return constant(node.inputs[1])


def _reshaped(value: ir.Value | None) -> ir.Value | None:
    """What it is another shape or type of; itself where it is none."""
    node = None if value is None else value.producer()
    return _reshaped(node.inputs[0]) if node is not None and node.op_type in _SAME_VALUES else value
