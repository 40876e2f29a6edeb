"""The ONNX meaning of operators with a weight: functions in domain `ai.sparsecc` whose bodies are standard operators.

A converted file carries the functions it calls, so a stock onnxruntime runs it: it inlines the body, folds the decoding of
the constant tensors when the session is made, and runs a dense product. A node reads

    <Operator>_<storage>[_nobias](x, *tensors[, bias])  {<parameter>, rows, cols, site, ...}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

import onnx_ir as ir

from sparsecc.ops.onnx_body import Body, Value

if TYPE_CHECKING:
    from sparsecc.ops.base import SiteOp

S = TypeVar("S")  # a Storage; pyright tells a class attribute from the property that `forms.Storage` asks for

# Attributes that every layer's node has, whether the body reads them or only who imports the file.
_ATTRIBUTES = {"site": ir.AttributeType.STRING, "rows": ir.AttributeType.INT, "cols": ir.AttributeType.INT}


class Call(NamedTuple):
    """A node to place: its inputs are what flows in, then the operator's tensors in their order, and the bias if there is one."""

    op_type: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class LayerFunctions(ABC, Generic[S]):
    """What one operator writes into files."""

    operator: type[SiteOp]

    @abstractmethod
    def output(self, body: Body, storage: S, rows: int, cols: int) -> Value:
        """Writes what comes of the inputs `x`, the storage's tensors and perhaps `bias`. A body that reads the sizes of the weight from
        its node's attributes (`body.rows`) serves all shapes."""

    def name(self, storage: S, rows: int, cols: int) -> str:
        """What tells functions apart besides the bias."""
        key: str = cast(Any, storage).key
        return key.replace(":", "_").replace("/", "_")

    def geometry(self, op: SiteOp) -> Mapping[str, Sequence[int]]:
        """Attributes of its nodes alone."""
        return {}

    def op_type(self, storage: S, rows: int, cols: int, bias: bool) -> str:
        """The function's name: `SparseLinear_nm_2_4`, `QuantizedLinear_int8_block_1x4_nobias`."""
        return f"{self.operator.__name__}_{self.name(storage, rows, cols)}" + ("" if bias else "_nobias")

    def call(self, op: SiteOp, site: str) -> Call:
        """The node that stands in the place of a site."""
        stored: Any = op.stored
        attributes = {self.operator.parameter: stored.key, "rows": stored.rows, "cols": stored.cols, "site": site}
        attributes |= {name: list(value) for name, value in self.geometry(op).items()}
        return Call(self.op_type(stored.storage, stored.rows, stored.cols, op.bias is not None), attributes)

    def function(self, storage: Any, rows: int, cols: int, bias: bool, opset: int) -> ir.Function:
        """What a node calls. opset: the model's, at least MIN_OPSET; the checker wants functions to agree with their model."""
        body = Body(["x", *storage.tensor_names, *(["bias"] if bias else [])], opset)
        known = {**_ATTRIBUTES, self.operator.parameter: ir.AttributeType.STRING}
        return body.function(self.op_type(storage, rows, cols, bias), self.output(body, storage, rows, cols), known)


def with_bias(body: Body, product: Value) -> Value:
    """The product and the bias, where there is one."""
    return body.op("Add", product, body.inputs["bias"]) if "bias" in body.inputs else product
