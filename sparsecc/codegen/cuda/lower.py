"""A torch graph whose packed layers call our kernels; everything else stays what it is, torch's.

    silu(sparse_linear(x, gate)) * sparse_linear(x, up)              ->  linear_cuda(x, gate and up, plan)
    sparse_linear(x, q), sparse_linear(x, k), sparse_linear(x, v)    ->  split(linear_cuda(x, q and k and v, plan))
    y + gelu(sparse_linear(x, w, bias))                              ->  linear_cuda(x, w, bias, y, plan)
    scaled_dot_product_attention(q, k, v, mask) of few queries       ->  attention_cuda(q, k, v, mask, plan)
    block_attention(q, k, v, orders, keep, ..)                       ->  block_attention_cuda(q, k, v, items, tiles, places, seen, plan)
    dynamic_block_attention(q, k, v, ..)             ->  block_attention_cuda(q, k, v, *chosen_tiles(q, k, ..), None, None, plan)
    rms_norm(x, shape, weight, eps) of few rows, before our layers   ->  rms_norm_cuda(x, weight, plan)

A packed layer for which there is no kernel, or none faster than cuBLAS, becomes a dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sparsecc.codegen.cuda import alone, operator
from sparsecc.codegen.cuda.alone import KINDS, AloneSpec
from sparsecc.codegen.cuda.blocks import hides_keys
from sparsecc.codegen.cuda.choose import Choice
from sparsecc.codegen.cuda.chosen import Chosen
from sparsecc.codegen.cuda.flex import flex_attention_cuda, unfit
from sparsecc.codegen.cuda.forms import Refusal, Stored, weights_of
from sparsecc.codegen.cuda.kernel import ACTIVATIONS, LinearSpec, Weights
from sparsecc.codegen.cuda.unpacking import packed
from sparsecc.errors import Refused
from sparsecc.forms import dtype_of
from sparsecc.graph.fx import cleanup, state
from sparsecc.graph.fx.activations import activation_after
from sparsecc.graph.fx.layers import OperatorLayer, arguments, aten, match, stored
from sparsecc.graph.fx.sites import SITE, find_sites
from sparsecc.graph.fx.tensors import assign, free_name, free_prefix, read_node
from sparsecc.graph.sites import WeightSite

_SWEEP = 16  # calls after which the weights that nothing reads any more go
_DTYPES = (torch.bfloat16, torch.float16)
_DYNAMIC_ATTENTION = torch.ops.sparsecc.dynamic_block_attention.default
_BLOCK_ATTENTION = torch.ops.sparsecc.block_attention.default


class Chooses(Protocol):
    """Says what runs a layer, see `choose.Chooser`."""

    def choose(self, spec: LinearSpec, weights: Weights, tokens: int) -> Choice: ...

    def alone(self, spec: AloneSpec, kept: tuple[Tensor, ...] = (), flex: bool = True) -> Choice: ...


@dataclass(frozen=True)
class Lowered:
    """module: the graph.  choices: what was decided, for the names of the layers that one call computes.  others: for what has no packed
    weight, see `alone`.  notes: on block maps that no kernel of ours computes."""

    module: GraphModule
    choices: tuple[tuple[tuple[str, ...], Choice], ...]
    others: tuple[tuple[str, AloneSpec, Choice], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Layer:
    """A packed layer. stored: its weight as kernels read it, or why none does."""

    node: Node
    bias: Tensor | None
    site: WeightSite
    stored: Stored | Refusal

    @property
    def x(self) -> Node:
        """As the graph is now: what entered the layer may have been replaced."""
        return self.node.args[0]  # type: ignore[return-value]

    @property
    def form(self) -> str:
        return self.stored.form if isinstance(self.stored, Stored) else ""


@dataclass(frozen=True)
class _Call:
    """Layers that one call computes: one, a gate and its factor, or several that read the same x. result: the node that the call's output
    stands in the place of, None for several."""

    layers: tuple[_Layer, ...]
    result: Node | None = None
    activation: str = ""
    gated: bool = False
    residual: Node | None = None


def lower(module: GraphModule, chooser: Chooses) -> Lowered:
    """Changes the module. Memory: weights are packed one call at a time."""
    layers = _layers(module)
    choices = []
    for number, call in enumerate(_calls(layers)):
        choices.append((tuple(layer.site.name for layer in call.layers), _replace(module, call, chooser)))
        module.graph.eliminate_dead_code()
        if number % _SWEEP == 0:
            cleanup.sweep(module)
    for layer in layers.values():
        if isinstance(layer.stored, Refusal):
            _make_dense(module, layer)
            choices.append(((layer.site.name,), Choice(None, reason=layer.stored.reason)))
    others = tuple((str(found[0].meta.get(SITE, "")), found[1], _alone(module, *found, chooser)) for found in alone.found(module))
    left = module.graph.find_nodes(op="call_function", target=_DYNAMIC_ATTENTION)
    notes = tuple(f"attention '{node.meta.get(SITE, '')}' chooses and computes its blocks in torch, which is slow" for node in left)
    notes += tuple(_left(node) for node in module.graph.find_nodes(op="call_function", target=_BLOCK_ATTENTION))
    _write_in_place(module)
    cleanup.sweep(module)
    return Lowered(module, tuple(choices), others, notes)


def _layers(module: GraphModule) -> dict[Node, _Layer]:
    sites, written = {site.name: site for site in find_sites(module)}, state.written(module)
    found = {}
    for node in module.graph.nodes:
        layer = match(node)
        if isinstance(layer, OperatorLayer):
            site = sites[node.meta[SITE]]
            assert isinstance(site, WeightSite)
            found[node] = _Layer(node, stored(layer.bias), site, _stored(layer, site, written))
    return found


def _stored(layer: OperatorLayer, site: WeightSite, written: Container[str]) -> Stored | Refusal:
    if layer.bias is not None and (stored(layer.bias) is None or str(layer.bias.target) in written):
        return Refusal("its bias changes from call to call")
    dtype = layer.x.meta["val"].dtype
    if layer.geometry is not None:
        return Refusal("there are no kernels for convolutions on GPUs")
    if dtype not in _DTYPES:
        return Refusal(f"kernels for GPUs take bfloat16 and float16, x is {dtype_of(layer.x.meta['val'])}")
    return weights_of(site)


def _calls(layers: dict[Node, _Layer]) -> Iterator[_Call]:
    """Gates first, then layers that read the same, then each by itself; each read off the graph as those before have left it."""
    left = {node: layer for node, layer in layers.items() if layer.form}
    for node in list(left):
        gate = _gate(node, left)
        if gate is not None:
            for layer in gate.layers:
                del left[layer.node]
            yield gate
    alone = []
    for group in _same_input(left.values()):
        if len(group) > 1:
            yield _Call(tuple(group))
        else:
            alone += group
    for layer in alone:
        yield _with_residual(_Call((layer,), *_activated(layer.node)))


def _gate(node: Node, left: dict[Node, _Layer]) -> _Call | None:
    """activation(gate) * other, with gate and other alike and of the same x."""
    if node not in left:
        return None
    result, activation = _activated(node)
    if not activation or len(result.users) != 1:
        return None
    product = next(iter(result.users))
    if product.target is not aten.mul.Tensor:
        return None
    other = next((left[operand] for operand in product.all_input_nodes if operand is not result and operand in left), None)
    gate = left[node]
    alike = other is not None and other.x is gate.x and other.form == gate.form and other.site.shape == gate.site.shape
    if other is None or not alike or len(other.node.users) != 1 or (other.bias is None) != (gate.bias is None):
        return None
    return _with_residual(_Call((gate, other), product, activation, gated=True))


def _activated(node: Node) -> tuple[Node, str]:
    """What stands after a layer's activation, where the kernels know it, else the layer."""
    found = activation_after(node)
    if found is None or found[0] not in ACTIVATIONS or not _alike(found[1].meta["val"], node.meta["val"]):
        return node, ""
    return found[1], found[0]


def _with_residual(call: _Call) -> _Call:
    """call + residual, of the same shape."""
    result = call.result
    assert result is not None
    if len(result.users) != 1:
        return call
    total = next(iter(result.users))
    if total.target is not aten.add.Tensor or total.kwargs or len(total.args) != 2:
        return call
    others = [operand for operand in total.args if operand is not result]
    if len(others) != 1 or not isinstance(others[0], Node):
        return call
    if not _alike(others[0].meta.get("val"), result.meta["val"]):
        return call
    return replace(call, result=total, residual=others[0])


def _same_input(layers: Sequence[_Layer] | Any) -> list[list[_Layer]]:
    """Layers without activation that read the same x in the same form; the others each by itself."""
    groups: dict[Any, list[_Layer]] = {}
    for layer in layers:
        activated = _activated(layer.node)[1]
        key = layer.node if activated else (layer.x, layer.form, layer.bias is None)
        groups.setdefault(key, []).append(layer)
    return list(groups.values())


def _replace(module: GraphModule, call: _Call, chooser: Chooses) -> Choice:
    dtype = call.layers[0].x.meta["val"].dtype
    weights = _together([layer.stored.weights(dtype) for layer in call.layers if isinstance(layer.stored, Stored)])
    spec = _spec(call, weights)
    example = call.layers[0].x.meta["val"].shape[:-1]
    choice = chooser.choose(spec, weights, hinted(example))
    if choice.plan is None:
        del weights
        for layer in call.layers:
            _make_dense(module, layer)
        return choice
    blob = packed(spec, weights)
    del weights
    first = call.layers[0]
    before = call.result if call.result is not None else first.node
    prefix = free_prefix(module, _common([layer.site.name for layer in call.layers]), ("packed", "bias"))
    assign(module, f"{prefix}.packed", blob, trainable=False)
    weight = read_node(module, before, f"{prefix}.packed")
    bias = None
    if spec.bias:
        biases = [layer.bias for layer in call.layers if layer.bias is not None]
        assign(module, f"{prefix}.bias", torch.cat(biases).to(first.x.meta["val"].dtype), trainable=False)
        bias = read_node(module, before, f"{prefix}.bias")
    with module.graph.inserting_before(before):
        y = module.graph.call_function(operator.linear_cuda, (first.x, weight, bias, call.residual, operator.register(choice.plan)))
    value = first.node.meta["val"]
    y.meta["val"] = value.new_empty((*value.shape[:-1], spec.outputs))
    if call.result is not None:
        call.result.replace_all_uses_with(y)
        return choice
    start = 0
    for layer in call.layers:
        rows = layer.site.rows
        with module.graph.inserting_before(before):
            part = module.graph.call_function(aten.slice.Tensor, (y, -1, start, start + rows))
        part.meta["val"] = layer.node.meta["val"]
        layer.node.replace_all_uses_with(part)
        start += rows
    return choice


def _together(weights: Sequence[Weights]) -> Weights:
    def stacked(pick: Callable[[Weights], Tensor | None]) -> Tensor | None:
        tensors = [tensor for tensor in map(pick, weights) if tensor is not None]
        return torch.cat(tensors) if len(tensors) == len(weights) else None

    numbers = torch.cat([one.numbers for one in weights])
    return Weights(numbers, stacked(lambda one: one.scales), stacked(lambda one: one.zeros))


def _spec(call: _Call, weights: Weights) -> LinearSpec:
    first = call.layers[0]
    rows, depth = weights.numbers.shape
    return LinearSpec(
        first.form,
        rows,
        depth,
        0,
        dtype_of(first.x.meta["val"]),
        bias=first.bias is not None,
        activation=call.activation,
        gated=call.gated,
        residual=call.residual is not None,
    )


def hinted(shape: Sequence[Any]) -> int:
    """How many tokens the model was traced with, by the shape of an input without its last axis."""
    tokens = 1
    for size in shape:
        tokens *= int(size.node.hint or 1) if isinstance(size, torch.SymInt) else int(size)  # 1 where data decide
    return tokens


def _common(names: Sequence[str]) -> str:
    """One name for several layers: blocks.0.q_proj, blocks.0.k_proj -> blocks.0.q_proj_k_proj."""
    first, *others = names
    return "_".join([first, *(name.rsplit(".", 1)[-1] for name in others)])


def _make_dense(module: GraphModule, layer: _Layer) -> None:
    """The layer as torch's own, with its weight unpacked."""
    node, site = layer.node, layer.site
    found = match(node)
    assert isinstance(found, OperatorLayer)
    prefix = free_prefix(module, site.name, ("weight",))
    dense_weight = site.weight.to(layer.x.meta["val"].dtype)
    if found.geometry is not None and dense_weight.dim() == 3:  # lines are images of height 1 there
        dense_weight = dense_weight.unsqueeze(-2)
    assign(module, f"{prefix}.weight", dense_weight, trainable=False, learnt=True)
    weight = read_node(module, node, f"{prefix}.weight")
    with module.graph.inserting_before(node):
        if found.geometry is None:
            dense = module.graph.call_function(aten.linear.default, (layer.x, weight, found.bias))
        else:
            dense = _convolution(module, found, weight)
    dense.meta = dict(node.meta)
    node.replace_all_uses_with(dense)
    module.graph.erase_node(node)


def _convolution(module: GraphModule, layer: OperatorLayer, weight: Node) -> Node:
    geometry = layer.geometry
    assert geometry is not None
    top, left, bottom, right = geometry.padding
    x, padding = layer.x, [top, left]
    if (top, left) != (bottom, right):
        x, padding = module.graph.call_function(aten.constant_pad_nd.default, (x, [left, right, top, bottom])), [0, 0]
    arguments = (x, weight, layer.bias, list(geometry.stride), padding, list(geometry.dilation), geometry.groups)
    return module.graph.call_function(aten.conv2d.default, arguments)


def _alone(module: GraphModule, node: Node, spec: AloneSpec, inputs: tuple[Any, ...], chooser: Chooses) -> Choice:
    kept = tuple(tensor for value in inputs for tensor in _known(value))
    in_each_call = [value for value in inputs if isinstance(value, Chosen)]
    choice = chooser.alone(spec, kept, flex=not in_each_call)
    for made in in_each_call:
        choice = replace(choice, reason=f"{choice.reason}; {made.said}")
    if choice.plan is not None:
        inputs = tuple(each for value in inputs for each in _inputs(module, node, value))
        with module.graph.inserting_before(node):
            y = module.graph.call_function(KINDS[type(spec)].operator, (*inputs, operator.register(choice.plan)))
        y.meta = dict(node.meta)
        node.replace_all_uses_with(y)
        module.graph.erase_node(node)
    return choice


def _known(value: Any) -> tuple[Tensor, ...]:
    """What of an input is the same in each call, or an example of what is not."""
    return value.example if isinstance(value, Chosen) else (value,) if isinstance(value, Tensor) else ()


def _inputs(module: GraphModule, node: Node, value: Any) -> tuple[Any, ...]:
    """Of an operator."""
    if not isinstance(value, Chosen):
        return (_kept(module, node, value) if isinstance(value, Tensor) else value,)
    arguments = value.arguments(lambda tensor: _kept(module, node, tensor))
    with module.graph.inserting_before(node):
        lists = module.graph.call_function(torch.ops.sparsecc.chosen_tiles.default, arguments)
        lists.meta["val"] = value.example
        parts = tuple(module.graph.call_function(getitem, (lists, number)) for number in range(2))
    for part, example in zip(parts, value.example, strict=True):
        part.meta["val"] = example
    return parts


def _left(node: Node) -> str:
    """FlexAttention takes a block map that no kernel of ours computes, if it can. What the report says."""
    given, name = arguments(node), node.meta.get(SITE, "")
    q, mask = given["q"].meta["val"], given["mask"]
    masked = mask is not None and not hides_keys(mask.meta["val"], q.shape[0], q.shape[2])
    reason = Refused("its mask is not one for all queries and heads") if masked else unfit(given["block"])
    if reason is not None:
        return f"attention '{name}' runs block by block in torch, which is slow: {reason.reason}"
    names = ("q", "k", "v", "orders", "keep", "grid", "text_first", "block", "scale", "causal", "mask")
    node.target, node.args, node.kwargs = flex_attention_cuda, tuple(given[one] for one in names), {}
    return f"attention '{name}' runs on FlexAttention, which inductor compiles at its first call"


def _kept(module: GraphModule, node: Node, value: Tensor) -> Node:
    """A tensor that an operator reads, stored beside its node."""
    name = free_name(module, f"{node.name}_kept")
    assign(module, name, value, trainable=False)
    return read_node(module, node, name)


def _write_in_place(module: GraphModule) -> None:
    """A cache that a model updates is written where it is, not copied: export makes `new = index_copy(cache, ..)` and `cache.copy_(new)`
    of `cache.index_copy_(..)`. Not where `new`, or the cache as it was, is read in a way that would show it."""
    for node in module.graph.find_nodes(op="call_function", target=aten.copy_.default):
        cache, new = node.args[:2]
        ours = isinstance(new, Node) and new.op == "call_function" and new.args and new.args[0] is cache
        in_place = state.IN_PLACE.get(new.target) if ours else None
        if in_place is None or not _alike(cache.meta["val"], new.meta["val"]):
            continue
        if _is_last_reader(cache, new, node) and not any(user.op == "output" for user in _readers(new)):
            new.target = in_place
            module.graph.erase_node(node)


def _is_last_reader(cache: Node, new: Node, copy: Node) -> bool:
    """Whether nothing reads the cache, or a view of it, as it was once `new` has been made."""
    order = {node: place for place, node in enumerate(cache.graph.nodes)}
    return all(order[user] < order[new] for user in _readers(cache) if user not in (new, copy))


def _readers(node: Node) -> Iterator[Node]:
    """What reads a node, directly or through its views."""
    for user in node.users:
        yield user
        if user.target is getitem or "".join(str(user.target).split(".")[1:2]) in _VIEWS:
            yield from _readers(user)


_VIEWS = {
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "transpose", "permute", "t", "numpy_T", "movedim",
    "as_strided", "slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "alias", "detach", "contiguous",
}  # fmt: skip


def _alike(a: Any, b: Any) -> bool:
    """Two values of one type and shape; sizes that data decide are compared by their names."""
    same = isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype
    return same and [str(size) for size in a.shape] == [str(size) for size in b.shape]
