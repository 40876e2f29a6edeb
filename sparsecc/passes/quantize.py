"""Round weights, and what they are multiplied with, to numbers of fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from sparsecc import precisions, registry
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import never_trained, require_valid, select, untouchable
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.precisions.base import Precision, Quantized
from sparsecc.precisions.int8 import WEIGHT_LEVELS

Activations = Literal["per_token", "calibrated"]


@dataclass(frozen=True)
class Rounding:
    """What Quantize does at a site.  error: relative, of the weight."""

    weight: Quantized
    error: float

    def __str__(self) -> str:
        inputs = self.weight.tensors.get("input_scale")
        scale = f", inputs in steps of {float(inputs):.3g}" if inputs is not None else ""
        return f"{self.weight.scheme.key}{scale}, weight error {self.error:.2%}"


@dataclass(frozen=True)
class Quantize(Pass[WeightSite, Rounding]):
    """Store the weights of linear layers in a narrow number format and multiply in it.

    linear(x, W, b)  ->  quantized_linear(x, values, scales, b)
    sparse_linear(x, packed, b)  ->  quantized_linear(x, packed values, scales, b)

    The pass may stand before or after `pack` and keeps the zeros that are there. Attention whose q, k and v all come from quantized layers
    is compiled to bfloat16 where the CPU has it.

    Left as they are, with the reason in the report: convolutions, structured layers, small layers, and weights or calibration inputs with
    NaN or infinity.

    dtype: the number format; a member of `precisions`.
    activations: of `int8`. `per_token`: one scale for each token, found while the model runs. `calibrated`: one scale for each layer, from
    the largest magnitude among the calibration inputs.
    weight_bits: of `int8`. 8, or 7 for values within ±64, which a stock onnxruntime multiplies exactly and at full speed also on x86 CPUs
    without VNNI. When not given, 7 in `convert` and 8 in `compile`, whose code is exact with either.
    min_weights: layers with fewer weights stay as they are.
    """

    examples = (Example({"dtype": "int8"}, on=("transformer",)),)

    targets: Targets = ALL
    ignore: Targets = ()
    dtype: str = "int8"
    activations: Activations = "per_token"
    weight_bits: int | None = None
    min_weights: int = 1024

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        registry.require("dtype", "precisions", self.dtype)
        if self.activations not in get_args(Activations):
            raise RecipeError(f"activations: {self.activations!r} is none of {', '.join(get_args(Activations))}")
        if self.calibrated and not hasattr(self._plain, "calibrated"):
            raise RecipeError(f"activations: {self.dtype} has no scales that could be calibrated; leave it out")
        if self.weight_bits is not None:
            self._require_weight_bits(self.weight_bits)
        if self.min_weights < 0:
            raise RecipeError(f"min_weights: {self.min_weights} is negative")

    @property
    def calibrated(self) -> bool:
        return self.activations == "calibrated"

    def precision(self, context: Context = Context()) -> Precision:
        """What layers are rounded to."""
        plain, narrow = self._plain, context.destination == "onnx"
        options: dict[str, Any] = {"calibrated": True} if self.calibrated else {}
        if hasattr(plain, "weight_bits"):
            options["weight_bits"] = self.weight_bits or (7 if narrow else 8)
        return replace(plain, **options)

    @property
    def _plain(self) -> Precision:
        return precisions.from_key(self.dtype)

    def _require_weight_bits(self, bits: int) -> None:
        if not hasattr(self._plain, "weight_bits"):
            raise RecipeError(f"weight_bits: {self.dtype} has no other; leave it out")
        if bits not in WEIGHT_LEVELS:
            raise RecipeError(f"weight_bits: {bits} is none of {', '.join(map(str, WEIGHT_LEVELS))}")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[WeightSite, Rounding]]:
        from sparsecc.calibration.statistics import largest_inputs  # here, because it imports torch

        sites = select(graph, WeightSite, self.targets, self.ignore)
        refused = {site.name: reason for site in sites if (reason := self._refuse(site, graph))}
        taken = [site for site in sites if site.name not in refused]
        if self.calibrated and taken and not context.calibration:
            raise RecipeError("activations: calibrated needs calibration inputs; pass calibration= (--calib)")
        largest = largest_inputs(graph, taken, context) if self.calibrated else {}
        precision = self.precision(context)
        for site in sites:
            known = refused.get(site.name) or largest.get(site.name)
            yield Match(site, known if isinstance(known, Refused) else _round(site, precision, known))

    def rewrite(self, graph: Graph, site: WeightSite, rounding: Rounding) -> None:
        from sparsecc.ops.quantized_linear import QuantizedLinear

        graph.replace(site, QuantizedLinear(rounding.weight, site.bias))

    def _refuse(self, site: WeightSite, graph: Graph) -> Refused | None:
        if not isinstance(site, Linear):
            return Refused("convolutions have no quantized operator")
        if site.rows * site.cols < self.min_weights:
            return Refused(f"{site.rows * site.cols} weights are fewer than min_weights {self.min_weights}")
        if reason := (untouchable(site) if site.packed is None else None) or never_trained(site, self.targets):
            return reason
        if graph.quantizes_only_float32 and site.dtype != "float32":
            return Refused(f"its weight is {site.dtype}, quantize takes float32 in ONNX models; convert the model to float32 first")
        return None


def _round(site: WeightSite, precision: Precision, largest: float | None) -> Rounding | Refused:
    matrix = site.matrix
    if not matrix.isfinite().all():
        return Refused("its weight holds NaN or infinity")
    weight = precision.quantize(matrix, largest)
    whole = float(matrix.float().norm())
    error = float((weight.dense(site.name) - matrix.float()).norm()) / whole if whole else 0.0
    if site.packed is not None:
        weight = weight.packed(site.packed.format, matrix != 0)
    return Rounding(weight, error)
