"""The ONNX host: a model file that passes can read and rewrite, and that stays a model file for any onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, TypeVar

import networkx as nx
import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from sparsecc.errors import InputError, ModelError, Refused
from sparsecc.graph.abilities import HasProto
from sparsecc.graph.base import ALL, Run, Targets, TensorSpec, matches
from sparsecc.graph.channels import Channels
from sparsecc.graph.inputs import bind
from sparsecc.graph.onnx import channels, hold, io, rewriting, sparse, unseen, values
from sparsecc.graph.onnx.attention import AttentionNodes, Tap
from sparsecc.graph.onnx.cleanup import clean
from sparsecc.graph.onnx.fold import constant
from sparsecc.graph.onnx.optional import require
from sparsecc.graph.onnx.run import Runner
from sparsecc.graph.onnx.sites import WeightNodes, find, site_of
from sparsecc.graph.onnx.walk import Walk, read_by
from sparsecc.graph.sites import Attention, Linear, Mlp, Site, Unseen, WeightSite
from sparsecc.ops.base import Operator
from sparsecc.registry import did_you_mean

S = TypeVar("S", bound=Site)
_SAME_VALUES = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})
Shapes = Mapping[str, Sequence[int]]


class OnnxGraph(HasProto):
    """An ONNX model, simplified when it was read (see `onnx_cleanup`).

    model: the onnx_ir model; edit it through this class only.  where: how errors call it.  came: the model as the file has it, to be
    compared with.  notes: what callers have to know of how it was read.
    """

    host = "onnx"
    chooses_blocks = False
    quantizes_only_float32 = True  # scales and sums are float32, and operators do not mix types

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
        return cls._read(io.read(path), fspath(path), input_shapes, standard, numbers)

    @classmethod
    def from_proto(
        cls, proto: onnx.ModelProto, input_shapes: Shapes | None = None, *, standard: bool = False, numbers: bool = False
    ) -> OnnxGraph:
        """As `from_file`, for a model in memory, which is left as it is. Its weights may not be in other files."""
        where = f"model '{proto.graph.name}'" if proto.graph.name else "the model"
        copied = onnx.ModelProto()
        copied.CopyFrom(proto)
        return cls._read(io.from_proto(copied, where), where, input_shapes, standard, numbers)

    @classmethod
    def _read(cls, came: ir.Model, where: str, input_shapes: Shapes | None, standard: bool, numbers: bool) -> OnnxGraph:
        values.take_defaults(came)
        notes = [*came.meta.get(io.NOTES, []), *(values.keep_numbers(came, where) if numbers else [])]
        values.require_ranks(came, where, input_shapes or {})
        shapes = _checked_shapes(came, input_shapes) if input_shapes else None
        model = clean(came, where, shapes, standard=standard)
        sparse.complete(came)  # whose functions were left out when it was read, so that it runs
        return cls(model, where, came, notes)

    def fixed(self, input_shapes: Shapes) -> OnnxGraph:
        """Folded however large that makes the model."""
        shapes = _checked_shapes(self.model, input_shapes)
        return OnnxGraph(clean(self.model, self.where, shapes, standard=True, growth=hold.LARGEST), self.where)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(values.spec(value) for value in self.model.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(values.spec(value) for value in self.model.graph.outputs)

    def sites(self, kind: type[S] = Site, targets: Targets = ALL) -> list[S]:
        return [site for site in self._all_sites() if isinstance(site, kind) and matches(site, targets)]

    def unseen(self) -> list[Unseen]:
        return unseen.find(self.model, self._all_sites())

    def _now(self, site: Site) -> Site | None:
        """By its node where that is in this graph: after each change all sites would have to be looked for anew."""
        handle = site.handle
        known = isinstance(handle, WeightNodes) and handle.node.graph is self.model.graph
        found = site_of(handle.node, site.name) if known else None
        return found or next((found for found in self._all_sites() if found.name == site.name), None)

    def _set_weight(self, site: WeightSite, weight: Tensor) -> None:
        rewriting.set_weight(self.model, site, weight)
        self._changed()

    def _set_bias(self, site: WeightSite, bias: Tensor) -> None:
        rewriting.set_bias(self.model, site, bias)
        self._changed()

    def _source(self, site: Linear) -> ir.Value | None:
        x = site.handle.x
        return None if rewriting.order_of(x.producer()) is not None else x

    def _gather_inputs(self, site: Linear, order: Tensor) -> None:
        rewriting.gather_inputs(self.model, site, order)
        self._changed()

    def _replace(self, site: Site, op: Operator) -> None:
        rewriting.replace(self.model, site, op)
        self._changed()

    def _channels(self, site: Mlp | Attention) -> Channels | Refused:
        return channels.find(self.model, site, self.sites(Linear))

    def _narrow(self, channels: Channels, units: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        rewriting.narrow(self.model, channels, units, weight, bias)
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
        results = {name: values.as_tensor(value) for name, value in arrays.items()}
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

    def _as_it_came(self, samples: Sequence[Sequence[Any]]) -> list[list[Any]]:
        self._runner = None  # two sessions at once would hold the weights twice
        names = [value.name or "" for value in self.model.graph.outputs]
        runner = Runner(self.came, self.where, packed=False)
        found = [runner.run(self._feeds(inputs), names) for inputs in samples]
        return [[given[name] for name in names] for given in found]

    @property
    def random(self) -> str:
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
            reached = walked.reach([tap.value for tap in found])
            yield name, [tuple(tap.shaped(torch.from_numpy(x)) for tap, x in zip(found, entering, strict=True)) for entering in reached]

    def embeddings(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        places = {value: place for place, value in enumerate(self.model.graph.inputs)}
        for node in self.model.graph:
            if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
                table, place = constant(node.inputs[0]), places.get(require(_reshaped(node.inputs[1])))
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

    def save(self, path: str | PathLike[str], external: bool | None = None) -> None:
        """Write a .onnx file, atomically. external: weights in a file beside it, as `onnx_write` says; None: only when too large."""
        io.write(values.with_defaults(self.model), path, external)

    def proto(self) -> onnx.ModelProto:
        proto = ir.serde.serialize_model(values.with_defaults(self.model))
        io.declare_maps(proto, self.model)
        return proto

    def _all_sites(self) -> list[Site]:
        if self._found is None:
            self._found = find(self.model)
        return self._found

    def _named(self, name: str) -> Site:
        found = next((site for site in self._all_sites() if site.name == name), None)
        if found is None:
            raise self._unknown(name)
        return found

    def _changed(self) -> None:
        self._found: list[Site] | None = None
        self._runner: Runner | None = None


def _taps(site: Site) -> tuple[Tap, ...]:
    if isinstance(site, Mlp):
        return _taps(site.first)
    if isinstance(site.handle, AttentionNodes):
        return (site.handle.q, site.handle.k, site.handle.v)
    return (Tap(site.handle.x),)


def _checked_shapes(model: ir.Model, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    specs = {value.name or "": values.spec(value) for value in model.graph.inputs}
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


def _reshaped(value: ir.Value | None) -> ir.Value | None:
    """What it is another shape or type of; itself where it is none."""
    node = None if value is None else value.producer()
    return _reshaped(node.inputs[0]) if node is not None and node.op_type in _SAME_VALUES else value
