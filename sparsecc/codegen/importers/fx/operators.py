"""Which torch operators can be converted: those unknown are taken apart, and each one is checked against what torch says it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from sparsecc.codegen.importers.base import arguments, shape_of
from sparsecc.codegen.importers.fx.converters import Converter
from sparsecc.codegen.importers.fx.decompositions import DECOMPOSITIONS
from sparsecc.codegen.tvm_api import ExportedProgramImporter, Expr, relax
from sparsecc.errors import ModelError
from sparsecc.graph.fx.layers import place_of

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# TVM's own converters forget the final state of recurrent layers, call a function that is not there (twice), and sum booleans.
_RECURRENT = ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
# Its logarithm of a sum of exponentials overflows.
_TAKEN_APART = (*_RECURRENT, "logaddexp.default", "pixel_shuffle.default", "take.default", "isin.Tensor_Tensor")
# Random numbers, which TVM draws once and for all, and anti-aliasing, which it leaves out.
_REFUSED = ("randn.default", "randn_like.default", "bernoulli.p", "exponential.default", "_upsample_bilinear2d_aa.default")


class MisfitError(ModelError):
    """An operator that has a converter, which does not take it as it is used. operator: its name, where it can be taken apart instead."""

    def __init__(self, message: str, node: fx.Node) -> None:
        super().__init__(message)
        self.operator = _name(node) if node.target in _ways() else None


def take_apart(program: ExportedProgram, ours: Iterable[str], misfits: Iterable[str] = ()) -> ExportedProgram:
    """Decompose operators that nobody here can convert into simpler ones, where torch knows how. ours: names of further converters.
    misfits: operators that have a converter, and are to be taken apart all the same."""
    known = _known(ours) - {*_TAKEN_APART, *misfits}
    ways = _ways()
    for _ in range(4):  # what comes out may have to be taken apart, too
        calls = [node for node in program.graph.nodes if node.op == "call_function"]
        table = {n.target: ways[n.target] for n in calls if n.target in ways and _name(n) not in known}
        if not table:
            break
        program = program.run_decompositions(table)
    return program


def check_drops(graph: fx.Graph) -> None:
    """Raises ModelError for what drops numbers at random. A flag may mean it in a model that is evaluated, too."""
    for node in graph.nodes:
        rate = _dropped(node) if isinstance(node.target, torch._ops.OpOverload) else 0
        if rate:
            what = f"{_name(node)} (at {place_of(node)}) drops {rate:g} of its numbers at random"
            raise ModelError(f"the compiler has no random numbers, and {what}: give it a rate of 0, or training=False")


def _dropped(node: fx.Node) -> float:
    """The share that dropout drops; recurrent layers and attention have it inside."""
    given = arguments(node)
    if "dropout_p" in given:
        return given["dropout_p"]
    return 0 if given.get("train", False) is False else given.get("p", given.get("dropout", 0))


def _ways() -> dict[Any, Any]:
    """How operators are spelled in simpler ones."""
    return {**dict(torch.export.default_decompositions().items()), **DECOMPOSITIONS}


def check_supported(graph: fx.Graph, ours: Iterable[str]) -> None:
    """Raises ModelError that lists what is left without a converter, and where it is."""
    known = _known(ours) | {"getitem", "sparsecc_constant"}
    unknown: dict[str, str] = {}
    for node in graph.nodes:
        if node.op == "call_function" and _name(node) not in known:
            unknown.setdefault(_name(node), place_of(node))
    if unknown:
        listed = ", ".join(f"{name} (at {where})" for name, where in unknown.items())
        raise ModelError(f"the compiler has no operator for: {listed}")


def _known(ours: Iterable[str]) -> set[str]:
    return {*ExportedProgramImporter().create_convert_map(), *ours} - {*_REFUSED}


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def checked(ours: Mapping[str, Converter], graph: fx.Graph) -> dict[str, Converter]:
    """Converters for all operators of a graph, ours before TVM's. A converted operator must have torch's shape and dtype."""
    tvms: dict[str, Callable[[fx.Node], Any]] = {}

    def convert(node: fx.Node, importer: Any) -> Any:
        if not tvms:
            tvms.update(importer.create_convert_map())
        try:
            result = ours[_name(node)](node, importer) if _name(node) in ours else tvms[_name(node)](node)
        except ModelError:
            raise
        except Exception as error:  # TVM raises a dozen kinds, and all of them mean that the operator is used in a way it does not know
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = lines[-1] if lines else type(error).__name__
            raise MisfitError(f"the compiler cannot take {_name(node)} (at {place_of(node)}): {said}", node) from error
        _check_agreement(node, result)
        return result

    return {_name(node): convert for node in graph.nodes if node.op == "call_function"}


def _check_agreement(node: fx.Node, result: Any) -> None:
    value = node.meta.get("val")
    if not isinstance(result, Expr) or not isinstance(result.ty, relax.TensorType):
        return
    if not isinstance(value, torch.Tensor):
        raise MisfitError(f"the compiler takes only the first result of {_name(node)} (at {place_of(node)})", node)
    if not all(isinstance(size, int) for size in value.shape):
        raise ModelError(f"the compiler needs fixed sizes, and that of {_name(node)} (at {place_of(node)}) depends on the data")
    torchs, ours = (list(value.shape), str(value.dtype).removeprefix("torch.")), (shape_of(result), str(result.ty.dtype.dtype))
    if torchs != ours:
        said = f"it would give {ours}, torch gives {torchs}"
        raise MisfitError(f"the compiler takes {_name(node)} (at {place_of(node)}) wrongly: {said}", node)
