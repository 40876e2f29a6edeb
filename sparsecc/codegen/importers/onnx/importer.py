"""ONNX graph → Relax. TVM's importer does the standard operators; the sparse ones of a converted file are added to its table."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparsecc.codegen.importers.base import Imported, Placeholders
from sparsecc.codegen.importers.onnx.attention import attention_converter
from sparsecc.codegen.importers.onnx.cast import CastConverter
from sparsecc.codegen.importers.onnx.checks import check_outputs
from sparsecc.codegen.importers.onnx.clip import clip_converter
from sparsecc.codegen.importers.onnx.fourier import fourier_converters
from sparsecc.codegen.importers.onnx.operators import operators
from sparsecc.codegen.importers.onnx.recurrent import recurrent_converters
from sparsecc.codegen.importers.onnx.resize import ResizeConverter
from sparsecc.codegen.importers.onnx.rounded import MICROSOFT, rounding_converters
from sparsecc.codegen.importers.onnx.sizes import ALWAYS, data_dependent
from sparsecc.codegen.importers.onnx.transposed import ConvTransposeConverter
from sparsecc.codegen.importers.onnx.vocabulary import vocabulary_converter
from sparsecc.codegen.tvm_api import onnx_frontend, relax
from sparsecc.errors import ModelError
from sparsecc.graph.onnx.kept import reason
from sparsecc.ops.base import ONNX_DOMAIN

if TYPE_CHECKING:
    import onnx

_NOTE = "# Metadata omitted. Use show_meta=True in script() method to show it."  # TVM prints it in the middle of its sentences
_OPERATOR = re.compile(r'ir\.Op\(.*?name="relax\.([\w.]+)".*?support_level=\d+\)')
_INTEGER = re.compile(r"T\.int64\((-?\d+)\)")
_DOMAINS = ("", "ai.onnx", ONNX_DOMAIN)
_table = threading.Lock()  # TVM keeps its table of operators in one module-level function


def import_onnx(model: onnx.ModelProto, where: str = "the model") -> Imported:
    """model: with fixed shapes and folded shape arithmetic; what its inputs are by default is taken off it.  where: how errors call it.

    Raises ModelError that lists operators TVM cannot take, and where they are.
    """
    _forget_defaults(model)
    placeholders = Placeholders()
    extra = {node.op_type: vocabulary_converter(node.op_type, placeholders) for node in model.graph.node if node.domain == ONNX_DOMAIN}
    extra |= operators() | fourier_converters() | recurrent_converters(placeholders)
    extra |= {"Cast": CastConverter, "Clip": clip_converter(), "ConvTranspose": ConvTransposeConverter, "Resize": ResizeConverter}
    extra |= rounding_converters(placeholders)
    if any(node.op_type == "Attention" and node.domain == "" for node in model.graph.node):  # TVM's table means com.microsoft's
        extra["Attention"] = attention_converter(placeholders)
    _check_supported(model, extra, where)
    with _operators(extra):
        try:
            module = _relax(model)
        except Exception as error:  # TVM raises a dozen kinds, and all of them mean that an operator is used in a way it does not know
            raise ModelError(f"{where}: the compiler cannot take {_problem(error)}") from error
    check_outputs(model, module, where)
    return Imported(_without_effects(module), placeholders.found)


def _relax(model: onnx.ModelProto) -> Any:
    """As TVM's `from_onnx` makes it, which has the model checked first, and for that serialized with all its weights."""
    opset = next((imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx")), 1)
    importer = onnx_frontend.ONNXGraphImporter(_shapes(model), "float32", keep_params_in_input=False, sanitize=True)
    return importer.from_onnx(model.graph, opset)


def _forget_defaults(model: onnx.ModelProto) -> None:
    """An initializer with the name of an input is its default, and no constant: callers pass it, or another value."""
    inputs = {value.name for value in model.graph.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in inputs]:
        model.graph.initializer.remove(tensor)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Of the inputs, which TVM takes for unknown where a size is 0."""
    sizes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input}
    return {name: shape for name, shape in sizes.items() if 0 in shape}


def _check_supported(model: onnx.ModelProto, extra: dict[str, Any], where: str) -> None:
    known = {*onnx_frontend._get_convert_map(), *extra, "Constant", "If", *ALWAYS}
    unknown: dict[str, str] = {}
    for node in _nodes(model.graph):
        ours = node.domain == "com.microsoft" and node.op_type in MICROSOFT
        if node.op_type not in known or (node.domain not in _DOMAINS and not ours):
            why = f": {reason(node)}" if reason(node) else ""
            unknown.setdefault(f"{node.domain}.{node.op_type}".removeprefix("."), f"(at '{node.name or node.output[0]}'{why})")
    if unknown:
        listed = ", ".join(f"{op_type} {place}" for op_type, place in unknown.items())
        raise ModelError(f"{where}: the compiler has no operator for: {listed}")
    unsized = data_dependent(model.graph)
    if unsized:
        raise ModelError(f"{where}: the compiler needs sizes that are fixed before the model runs: {'; '.join(unsized)}")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those in the branches of an If, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _problem(error: Exception) -> str:
    """The operator that TVM was converting, and the last line of what it said."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = _OPERATOR.sub(r"\1", _INTEGER.sub(r"\1", (lines[-1] if lines else type(error).__name__).replace(_NOTE, "").strip()))
    at, trace = "this model", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "_construct_nodes":
            names = trace.tb_frame.f_locals
            node = names.get("node")
            at = f"{node.op_type} (at '{node.name or node.output[0]}')" if node is not None else at
            names.clear()  # a copy, which the frame would keep together with TVM's half-built function
        trace = trace.tb_next
    return f"{at}: {said}"


@contextmanager
def _operators(extra: dict[str, Any]) -> Iterator[None]:
    """Extend TVM's table while one import runs."""
    with _table:
        original = onnx_frontend._get_convert_map
        onnx_frontend._get_convert_map = lambda: {**original(), **extra}
        try:
            yield
        finally:
            onnx_frontend._get_convert_map = original


def _without_effects(module: Any) -> Any:
    """Decomposed for inference: dropout and training-mode batch norm go."""
    return relax.transform.DecomposeOpsForInference()(module)
