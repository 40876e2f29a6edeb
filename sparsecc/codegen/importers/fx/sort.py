"""torch's sorting. TVM's argsort keeps equal elements in order, as torch's stable one does."""

from __future__ import annotations

from typing import Any

from torch import fx

from sparsecc.codegen.importers.base import arguments
from sparsecc.codegen.tvm_api import relax


def sort(node: fx.Node, importer: Any) -> Any:
    """(values, indices)."""
    given, emit = arguments(node), importer.block_builder.emit
    x, axis = importer.env[given["self"]], given["dim"]
    indices = emit(relax.op.argsort(x, axis, given["descending"], dtype="int64"))
    return emit(relax.Tuple([emit(relax.op.gather_elements(x, indices, axis=axis)), indices]))


def argsort(node: fx.Node, importer: Any) -> Any:
    given = arguments(node)
    return importer.block_builder.emit(relax.op.argsort(importer.env[given["self"]], given["dim"], given["descending"], dtype="int64"))


def topk(node: fx.Node, importer: Any) -> Any:
    """(values, indices), in order also where the model does not ask for it."""
    given = arguments(node)
    x = importer.env[given["self"]]
    return importer.block_builder.emit(relax.op.topk(x, given["k"], given["dim"], "both", given["largest"], "int64"))
