"""onnxslim, kept within bounds: what it may fold, what it may say, and what becomes of a model that it breaks."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import onnx
import onnxruntime

from sparsecc.errors import ModelError
from sparsecc.graph.onnx import apart, hold, run
from sparsecc.graph.onnx.nodes import without_weights
from sparsecc.graph.onnx.opset import check

logger = logging.getLogger(__name__)

# Fusing MatMul and Add into Gemm costs two reshapes per layer and hides which layer it was; tying equal weights makes layers
# shared that the model holds apart.
SKIPPED_FUSIONS = ["FusionGemm", "FusionGemmMul", "FusionGemmAdd"]
SKIPPED_OPTIMIZATIONS = ["weight_tying"]
_MOST_NODES = 5000  # onnxslim compares each with each: 90 s for 6,400
_lock = threading.Lock()  # onnxslim keeps its settings in a global


def slimmed(proto: onnx.ModelProto, where: str, growth: int) -> onnx.ModelProto:
    """onnxslim's result if it checks, keeps the outputs and adds no more than `growth` bytes, else the model as it was: a slimmer model
    is never worth a wrong one. The given model is used up."""
    if len(proto.graph.node) > _MOST_NODES:
        logger.info("%s: left unsimplified, it has %d nodes", where, len(proto.graph.node))
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    held = hold.take_out(proto, growth, where)
    found = _tried(proto, where, None)
    if found is not None and found.ByteSize() > proto.ByteSize() + growth:  # by what onnx could not foresee, as inside the graphs of an If
        found = _tried(proto, where, hold.GROWTH)
    result = found if found is not None else onnx.shape_inference.infer_shapes(proto, data_prop=True)
    hold.put_back(result, held)
    return result


def _tried(proto: onnx.ModelProto, where: str, largest: int | None) -> onnx.ModelProto | None:
    """largest: bytes of what may be folded, None for anything. None where it went wrong."""
    wanted = [output.name for output in proto.graph.output]
    try:
        slimmer = _slim(proto, where, largest)
        check(slimmer, full=True)
        reason = "" if [output.name for output in slimmer.graph.output] == wanted else "it changed the outputs"
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a third party's rewrite raises, the model itself is sound
        slimmer, reason = None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if reason:
        logger.info("%s: left unsimplified, onnxslim failed: %s", where, reason)
        return None
    return slimmer


def _slim(proto: onnx.ModelProto, where: str, largest: int | None) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)  # onnxslim edits what it is given
    if not _declares_right_shapes(proto):  # and folds by the shapes that a file declares
        del copied.graph.value_info[:]
        for output in copied.graph.output:
            output.type.tensor_type.ClearField("shape")
    suspects = apart.risks(copied)
    return apart.slim(copied, where, suspects, largest) if suspects else slim(copied, largest)


def slim(proto: onnx.ModelProto, largest: int | None) -> onnx.ModelProto:
    """As onnxslim does it, in place. largest: bytes of what may be folded, None for anything."""
    import onnxslim
    import onnxslim.core

    skipped: dict[str, Any] = {"skip_fusion_patterns": SKIPPED_FUSIONS, "skip_optimizations": SKIPPED_OPTIMIZATIONS}
    with _lock, _quiet():
        onnxslim.core.AUTO_MERGE = False  # it takes a size that is broadcast for the one that it meets: 1 for 4
        return cast("onnx.ModelProto", onnxslim.slim(proto, size_threshold=cast("Any", largest), **skipped))


class _Quiet(onnxruntime.InferenceSession):
    """A session that reports on stderr nothing that it raises anyway."""

    def __init__(self, model: Any, sess_options: Any = None, **given: Any) -> None:
        super().__init__(model, sess_options or run.options(), **given)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxslim folds in sessions that it opens without options."""
    usual = onnxruntime.InferenceSession
    onnxruntime.InferenceSession = _Quiet
    try:
        yield
    finally:
        onnxruntime.InferenceSession = usual


def _declares_right_shapes(proto: onnx.ModelProto) -> bool:
    """Whether all declared shapes agree with what the operators compute, as far as onnx knows the operators."""
    if any(node.domain != "" for node in proto.graph.node):
        return False
    try:
        onnx.shape_inference.infer_shapes(without_weights(proto), strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return False
    return True


def child(largest: int | None) -> None:
    """What `apart.slim` runs in a process of its own: a model comes in by stdin and leaves by stdout."""
    out = os.dup(1)
    os.dup2(2, 1)  # libraries print
    result = slim(onnx.ModelProto.FromString(sys.stdin.buffer.read()), largest)
    with os.fdopen(out, "wb") as stream:
        stream.write(result.SerializeToString())
