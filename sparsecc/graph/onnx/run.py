"""Evaluating an ONNX graph in onnxruntime, with any of its values as outputs. Weights are lent to the session, not copied into it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors  # type: ignore[attr-defined]

from sparsecc.errors import InputError, ModelError
from sparsecc.graph.onnx.divide import guard_divisions
from sparsecc.graph.onnx.io import first_cause

THREADS = 2
LENT_BYTES = 1024  # smaller weights travel inside the serialized model
_LENDABLE = tuple(ir.DataType[name] for name in ("FLOAT", "DOUBLE", "INT32", "INT64", "INT8", "UINT8", "UINT16"))
FAILURES = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.NotImplemented,
    errors.RuntimeException,
    errors.InvalidProtobuf,
)


# These multiply integers, with saturation on CPUs that cannot do it otherwise, unless the session asks for precision.
_INTEGER_PRODUCTS = ("MatMulInteger", "ConvInteger", "QLinear", "DynamicQuantize", "QAttention", "QGemm", "MatMulIntegerToFloat")
_BY_THREADS = "DynamicQuantizeLSTM"  # on several threads parts of a batch are rounded by scales of their own
_BREAKS_PRECISION = "MatMulNBits"  # onnxruntime 1.32 fails on it when precision is asked for


class Runner:
    """Runs one model that does not change any more; the session is kept as long as the same values are wanted.

    exact: as the operators say, on any CPU: nothing is rounded that the model does not round.  False: as a session without options does.
    packed: with weights in the order that kernels like, another copy of them, which pays when much is run.
    """

    def __init__(self, model: ir.Model, where: str, exact: bool = True, packed: bool = True) -> None:
        self._model = model
        self._where = where
        self._exact = exact
        self._packed = packed
        self._lent: dict[str, onnxruntime.OrtValue] = {}  # a session does not keep what it borrows alive
        self._fed: dict[str, onnxruntime.OrtValue] = {}  # weights that are inputs of the session
        self._session: tuple[tuple[str, ...], onnxruntime.InferenceSession] | None = None

    def run(self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, Any]:
        """The values called `wanted`: arrays, but for sequences and maps.

        Raises ModelError when onnxruntime cannot take the model, InputError when it fails on the feeds.
        """
        given = {name: feeds[name] for name in wanted if name in feeds}
        computed = tuple(dict.fromkeys(name for name in wanted if name not in feeds))
        if self._session is None or self._session[0] != computed:
            self._session = None  # one at a time: each holds the weights again, in the order its kernels like
            self._session = (computed, self._open(computed))
        session = self._session[1]
        try:
            results = session.run(list(computed), self._fed | dict(feeds))
        except FAILURES as error:
            raise InputError(f"{self._where}: onnxruntime fails on these inputs: {first_cause(error)}") from None
        return given | dict(zip(computed, results, strict=True))

    def open(self) -> None:
        """Raises ModelError when onnxruntime cannot take the model."""
        self._open(tuple(value.name or "" for value in self._model.graph.outputs))

    def _open(self, wanted: tuple[str, ...]) -> onnxruntime.InferenceSession:
        model = self._model.clone()
        session_options = options(node.op_type for node in model.graph.all_nodes()) if self._exact else options()
        guard_divisions(model.graph)
        if self._exact or not self._packed:
            session_options.add_session_config_entry("session.disable_prepacking", "1")
            self._feed_weights(model.graph)
        self._lend_weights(model.graph, session_options)
        _return(model.graph, wanted)
        try:
            serialized = ir.serde.serialize_model(model).SerializeToString()
            return onnxruntime.InferenceSession(serialized, session_options, providers=["CPUExecutionProvider"])
        except FAILURES as error:
            raise ModelError(f"{self._where}: onnxruntime cannot run this model: {first_cause(error)}") from None

    def _feed_weights(self, graph: ir.Graph) -> None:
        """Make inputs of the matrices that products read: onnxruntime copies every initializer, lent ones too."""
        given = {value.name for value in graph.inputs}
        for name, value in list(graph.initializers.items()):
            constant = value.const_value
            if constant is None or constant.nbytes < LENT_BYTES or name in given or not _is_matrix(value):
                continue
            if name not in self._fed:
                self._fed[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(constant.numpy()))
            del graph.initializers[name]
            value.const_value, value.type, value.shape = None, ir.TensorType(constant.dtype), ir.Shape(constant.numpy().shape)
            graph.inputs.append(value)

    def _lend_weights(self, graph: ir.Graph, options: onnxruntime.SessionOptions) -> None:
        """Replace large initializers by references into memory that the sessions share with the graph."""
        for name, value in graph.initializers.items():
            constant = value.const_value
            if constant is None or constant.nbytes < LENT_BYTES or constant.dtype not in _LENDABLE or not value.uses():
                continue
            if name not in self._lent:
                self._lent[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(constant.numpy()))
            value.const_value = ir.ExternalTensor(name, 0, constant.nbytes, constant.dtype, shape=constant.shape, name=name)  # type: ignore[arg-type]
        if self._lent:
            options.add_external_initializers(list(self._lent), list(self._lent.values()))


def options(exact_for: Iterable[str] | None = None) -> onnxruntime.SessionOptions:
    """exact_for: the operators of a model that is to be run exactly as it says. Left alone, onnxruntime rounds activations to int8 before
    a MatMul with an int8 weight behind DequantizeLinear, and multiplies unsigned by signed bytes with saturation where there is no VNNI.
    """
    found = onnxruntime.SessionOptions()
    found.intra_op_num_threads, found.inter_op_num_threads = THREADS, 1
    found.log_severity_level = 4  # errors are raised
    if exact_for is not None:
        operators = set(exact_for)
        found.add_session_config_entry("session.disable_prepacking", "1")  # a copy of every weight, for each session
        found.add_session_config_entry("session.disable_quant_qdq", "1")
        if _BY_THREADS in operators:
            found.intra_op_num_threads = 1
        if _BREAKS_PRECISION not in operators and any(operator.startswith(_INTEGER_PRODUCTS) for operator in operators):
            found.add_session_config_entry("session.x64quantprecision", "1")
    return found


def _is_matrix(value: ir.Value) -> bool:
    """Whether products of floats alone read a value, which are computed alike whether it is constant or not."""
    users = value.uses()
    return value.dtype == ir.DataType.FLOAT and bool(users) and all(use.node.op_type in ("MatMul", "Gemm") and use.idx < 2 for use in users)


def _return(graph: ir.Graph, wanted: tuple[str, ...]) -> None:
    computed = {value.name: value for node in graph for value in node.outputs}
    have = [value.name for value in graph.outputs]
    graph.outputs.extend(computed[name] for name in wanted if name not in have)
