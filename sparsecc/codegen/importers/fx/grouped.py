"""Products with stacks of matrices, of which data decide which one a row meets: how mixtures of experts are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from sparsecc.codegen.importers.base import Placeholder, Placeholders, arguments, shape_of
from sparsecc.codegen.tvm_api import relax

if TYPE_CHECKING:
    from sparsecc.codegen.importers.fx.vocabulary import Place, Tensors

Emit = Callable[[Any], Any]


def _torchs(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    """torch's own: also a stack of matrices by a stack of matrices, without offsets."""
    given, emit = arguments(node), importer.block_builder.emit
    x, weight = importer.env[given["self"]], importer.env[given["mat2"]]
    if given.get("bias") is not None:
        raise NotImplementedError("a bias")
    if given["offs"] is None:
        return emit(relax.op.matmul(x, weight))
    if (len(shape_of(x)), len(shape_of(weight))) != (2, 3):
        raise NotImplementedError("offsets along another axis than the rows of the first operand")
    return _grouped(node, emit, placeholders, x, weight, importer.env[given["offs"]])


def _transformers(node: fx.Node, importer: Any, placeholders: Placeholders, tensors: Tensors) -> Any:
    given = arguments(node)
    x, weight, ends = (importer.env[given[name]] for name in ("input", "weight", "offs"))
    return _grouped(node, importer.block_builder.emit, placeholders, x, weight, ends)


def _grouped(node: fx.Node, emit: Emit, placeholders: Placeholders, x: Any, weight: Any, ends: Any) -> Any:
    """x [rows, depth] by weight [experts, depth, cols]: rows up to ends[0] by the first matrix, from there to ends[1] by the second."""
    if {x.ty.dtype.dtype, weight.ty.dtype.dtype} != {"float32"}:
        raise NotImplementedError(f"{x.ty.dtype.dtype} by {weight.ty.dtype.dtype}")
    rows, cols = shape_of(x)[0], shape_of(weight)[2]
    place = relax.const(np.arange(rows).reshape(-1, 1), ends.ty.dtype.dtype)
    passed = emit(relax.op.greater_equal(place, emit(relax.op.expand_dims(ends, 0))))
    expert = emit(relax.op.sum(emit(relax.op.astype(passed, "int32")), axis=1))
    return emit(placeholders.call(Placeholder("grouped_matmul", node.name), [x, weight, expert], [rows, cols]))


GROUPED: dict[str, Place] = {"_grouped_mm.default": _torchs, "grouped_mm_fallback.default": _transformers}
