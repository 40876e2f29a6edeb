"""FX graph → Relax. TVM's importer does most operators; here are the sparse ones and attention, which it would take apart too early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx
from torch.export.graph_signature import ConstantArgument

from sparsecc.codegen.importers.base import Imported, Placeholder, Placeholders, args_of, shape_of
from sparsecc.codegen.importers.fx.converters import CONVERTERS, Converter
from sparsecc.codegen.importers.fx.grouped import GROUPED
from sparsecc.codegen.importers.fx.operators import MisfitError, check_drops, check_supported, checked, take_apart
from sparsecc.codegen.importers.fx.vocabulary import Place, Tensors, vocabulary
from sparsecc.codegen.tvm_api import GenericConst, from_exported_program, relax

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_FOLD_ELEMENTS = 1 << 21  # larger results stay computed: folding must not copy weights
_MASKED = -math.inf  # added where attention may not look; a query that may look nowhere gets zeros, as in torch


def sparsecc_constant(index: int) -> None:
    """Marks a folded value in the graph; its converter puts the constant in."""


def import_whole(make: Callable[[], ExportedProgram]) -> Imported:
    """`import_fx` of a program, where operators that do not fit their converters are taken apart instead.

    make: the program, anew at each call, since importing changes it.
    """
    misfits: list[str] = []
    while True:
        try:
            return import_fx(make(), misfits)
        except MisfitError as error:
            if error.operator is None or error.operator in misfits:
                raise
            misfits.append(error.operator)


def import_fx(program: ExportedProgram, misfits: Sequence[str] = ()) -> Imported:
    """program: exported with static shapes.  misfits: operators to take apart whatever converters there are.

    Raises ModelError that lists operators TVM cannot take, and where they are.
    """
    check_drops(program.graph)
    places = _places()
    program = take_apart(program, (*CONVERTERS, *places), misfits)
    _drop_flags(program)
    tensors, placeholders = _tensors(program), Placeholders()
    constants = _fold(program, tensors)
    check_supported(program.graph, (*CONVERTERS, *places))
    converters = checked(_converters(places, placeholders, tensors, constants), program.graph)
    module = from_exported_program(program, run_ep_decomposition=False, custom_convert_map=converters)
    return Imported(module, placeholders.found)


def _drop_flags(program: ExportedProgram) -> None:
    """Inputs that are no tensors are constants of the trace, and TVM has no word for them."""
    specs = program.graph_signature.input_specs
    flags = {spec.arg.name for spec in specs if isinstance(spec.arg, ConstantArgument)}
    specs[:] = [spec for spec in specs if spec.arg.name not in flags]
    for node in program.graph.find_nodes(op="placeholder"):
        if node.name in flags:
            program.graph.erase_node(node)


def _tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Parameters, buffers and lifted constants by the name of their graph input."""
    named = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    return {s.arg.name: named[s.target].detach() for s in program.graph_signature.input_specs if s.target in named}


def _fold(program: ExportedProgram, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Replace what depends on no input (masks, positions) by constants; drop assertions and what is then unused."""
    graph = program.graph
    known: dict[fx.Node, Any] = {node: tensors[node.name] for node in graph.nodes if node.op == "placeholder" and node.name in tensors}
    constants: list[torch.Tensor] = []
    for node in list(graph.nodes):
        if node.op == "call_function" and "_assert" in str(node.target):
            graph.erase_node(node)
        elif _foldable(node, known):
            with torch.no_grad():
                value = node.target(*fx.map_arg(node.args, known.get), **fx.map_arg(node.kwargs, known.get))
            known[node] = value
    for node in list(graph.nodes):
        value = known.get(node)
        used_outside = any(user not in known for user in node.users)
        if node.op != "call_function" or not isinstance(value, torch.Tensor) or not used_outside or _is_big_view(node, known):
            continue
        constants.append(value.contiguous())
        with graph.inserting_before(node):
            constant = graph.call_function(sparsecc_constant, (len(constants) - 1,))
        known[constant] = value
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
    graph.eliminate_dead_code()
    return constants


def _foldable(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    if node.op != "call_function" or not all(arg in known for arg in node.all_input_nodes):
        return False
    value = node.meta.get("val")
    random = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
    return (
        isinstance(value, torch.Tensor) and value.numel() <= _FOLD_ELEMENTS and not random and not str(node.target).startswith("sparsecc")
    )


def _is_big_view(node: fx.Node, known: dict[fx.Node, Any]) -> bool:
    """A reshaped or transposed weight: left for lowering, which packs weights without a copy in between."""
    sizes = [known[arg].numel() for arg in node.all_input_nodes if isinstance(known[arg], torch.Tensor)]
    return known[node].numel() > 1 << 16 and known[node].numel() in sizes


def _constant_of(expr: Any) -> np.ndarray | None:
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def _attention(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    """scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, *, scale, enable_gqa), [batch, heads, tokens, head_dim]."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    emit = importer.block_builder.emit
    q, k, v = (importer.env[given[name]] for name in names[:3])
    shape, result_shape = shape_of(q), list(node.meta["val"].shape)
    lead = result_shape[:-2]
    mask = importer.env[given["attn_mask"]] if given.get("attn_mask") is not None else None
    constant = _constant_of(mask)
    causal = bool(given.get("is_causal", False))
    if constant is not None and constant.dtype == bool and constant.shape[-2:] == (shape[-2], shape_of(k)[-2]):
        square = constant.shape[-1] == constant.shape[-2]
        if constant.all():
            mask = None
        elif square and (constant == np.tril(np.ones(constant.shape[-2:], bool))).all():
            mask, causal = None, True
    if mask is not None and mask.ty.dtype.dtype == "bool":
        mask = emit(relax.op.where(mask, relax.const(0.0, "float32"), relax.const(_MASKED, "float32")))
    scale = 1 / math.sqrt(shape[-1]) if given.get("scale") is None else given["scale"]
    args = [_four_axes(emit, q, [*lead, *shape[-2:]]), *(_four_axes(emit, x, [*lead[:-1], *shape_of(x)[-3:]]) for x in (k, v))]
    if mask is not None:
        sizes = [1] * (3 - len(shape_of(mask))) + shape_of(mask)
        args.append(_four_axes(emit, mask, [*lead[:-1], *sizes[-3:]]) if max(len(lead) + 2, len(sizes)) > 4 else mask)
    out = [*shape_of(args[0])[:-1], result_shape[-1]]
    result = emit(placeholders.call(Placeholder("attention", node.name, {"scale": scale, "causal": causal}), args, out))
    return result if out == result_shape else emit(relax.op.reshape(result, result_shape))


def _four_axes(emit: Callable[[Any], Any], x: Any, wanted: list[int]) -> Any:
    """x, spread over `wanted` [.., heads, tokens, features], as [batch, heads, tokens, features]."""
    x = x if wanted == shape_of(x) else emit(relax.op.broadcast_to(x, wanted))
    four = [math.prod(wanted[:-3]), *[1] * (3 - len(wanted)), *wanted[-3:]]
    return x if four == wanted else emit(relax.op.reshape(x, four))


def _places() -> dict[str, Place]:
    """What becomes a placeholder, by the names of torch operators."""
    return {"scaled_dot_product_attention.default": _attention, **GROUPED, **vocabulary()}


def _constant(tensor: torch.Tensor) -> Any:
    return relax.const(tensor.detach().numpy(), str(tensor.dtype).removeprefix("torch."))


def _converters(
    places: Mapping[str, Place], placeholders: Placeholders, tensors: dict[str, torch.Tensor], constants: list[torch.Tensor]
) -> dict[str, Converter]:
    def placed(convert: Callable[..., Any]) -> Converter:
        return lambda node, importer: convert(node, importer, placeholders, tensors)

    return {
        **CONVERTERS,
        **{name: placed(convert) for name, convert in places.items()},
        sparsecc_constant.__name__: lambda node, importer: _constant(constants[args_of(node)[0]]),
    }
