"""Round weights, and what they are multiplied with, to numbers of fewer bits; or weights alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from sparsecc import memory, precisions, registry
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError, Refused
from sparsecc.forms import Form
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import never_trained, require_valid, select, untouchable
from sparsecc.graph.sites import Linear, WeightSite
from sparsecc.passes.base import Example, Match, Pass
from sparsecc.precisions.base import Group, Method, Precision, Quantized
from sparsecc.ranks.work import each

if TYPE_CHECKING:
    from sparsecc.criteria.base import Stats

Activations = Literal["per_token", "calibrated"]


@dataclass(frozen=True)
class Rounding:
    """What Quantize does at a site.  error: relative, of the weight.  note: on the output, where that was looked at."""

    weight: Quantized
    error: float
    note: str = ""

    def __str__(self) -> str:
        inputs = self.weight.tensors.get("input_scale")
        scale = f", inputs in steps of {float(inputs):.3g}" if inputs is not None else ""
        return f"{self.weight.scheme.key}{scale}, weight error {self.error:.2%}{self.note}"


@dataclass(frozen=True)
class Quantize(Pass[WeightSite, Rounding]):
    """Store the weights of linear layers in a narrow number format and multiply in it.

    linear(x, W, b)  ->  quantized_linear(x, values, scales, b)
    sparse_linear(x, packed, b)  ->  quantized_linear(x, packed values, scales, b)

    The pass may stand before or after `pack` and keeps the zeros that are there. Attention whose q, k and v all come from quantized layers
    is compiled to bfloat16 where the CPU has it.

    Left as they are, with the reason in the report: convolutions, structured layers, small layers, and weights or calibration inputs with
    NaN or infinity.

    dtype: the number format; a member of `precisions`. `int8` and `bfloat16` round inputs, too. `int4` and `int8_weight_only` are of
    weights alone.
    activations: of `int8`. `per_token`: a scale and a zero point for each token, found while the model runs. `calibrated`: one scale for
    each layer, from the largest magnitude among the calibration inputs. `per_token` when not given.
    group: of weights alone: how many neighbouring inputs have one scale, 32, 64 or 128, or `row` for one scale for each output. The last
    group of a row may have fewer inputs. 128 for `int4` and `row` for `int8_weight_only` when not given.
    symmetric: of weights alone: numbers on both sides of zero alike. `false`: between the least and the largest weight of each group, with
    a zero point. Weights of zero stay zero in either case.
    method: of weights alone. `nearest`: each weight by itself. `gptq`: one input after the other, each making up for what rounding those
    before it has changed in the outputs on the calibration inputs, as those come from the layers that were rounded before.
    weight_bits: of `int8`. 8, or 7 for values within ±64, which a stock onnxruntime multiplies exactly and at full speed also on x86 CPUs
    without VNNI. When not given, 7 in `convert` and 8 in `compile`, whose code is exact with either.
    min_weights: layers with fewer weights stay as they are.
    device: of `gptq`: a device of torch, as `cuda`, on which the model runs and its layers are rounded (torch models). Where the weights
    lie when not given.
    """

    examples = (Example({"dtype": "int8"}, on=("transformer",)), Example({"dtype": "int4", "group": 32}, on=("transformer",)))

    targets: Targets = ALL
    ignore: Targets = ()
    dtype: str = "int8"
    activations: Activations | None = None
    group: Group | None = None
    symmetric: bool = True
    method: Method = "nearest"
    weight_bits: int | None = None
    min_weights: int = 1024
    device: str | None = None

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        registry.require("dtype", "precisions", self.dtype)
        self._require_activations()
        self._require_groups()
        self._require_device()
        if self.weight_bits is not None:
            self._require_weight_bits(self.weight_bits)
        if self.min_weights < 0:
            raise RecipeError(f"min_weights: {self.min_weights} is negative")

    def _require_activations(self) -> None:
        if self.activations is None:
            return
        if self.activations not in get_args(Activations):
            raise RecipeError(f"activations: {self.activations!r} is none of {', '.join(get_args(Activations))}")
        if self.calibrated and not self._plain.calibrates:
            raise RecipeError(f"activations: {self.dtype} has no scales that could be calibrated; leave it out")
        if not self._plain.rounds_inputs:
            raise RecipeError(f"activations: {self.dtype} is of weights alone, and leaves inputs as they are; leave it out")

    def _require_groups(self) -> None:
        plain = self._plain
        known, other = ", ".join(map(str, plain.groups_known)), self._weight_only_twin()
        if not known and self.group is not None:
            raise RecipeError(f"group: {self.dtype} has no groups; leave it out{other}")
        if not known and not self.symmetric:
            raise RecipeError(f"symmetric: weights in {self.dtype} have no zero points; leave it out{other}")
        if self.group is not None and self.group not in plain.groups_known:
            raise RecipeError(f"group: {self.group!r} is none of {known}")
        if self.method not in get_args(Method):
            raise RecipeError(f"method: {self.method!r} is none of {', '.join(get_args(Method))}")
        if self.method not in plain.methods:
            raise RecipeError(f"method: {self.dtype} knows {', '.join(plain.methods)} alone; leave it out{other}")

    def _require_device(self) -> None:
        if self.device is None:
            return
        from sparsecc.passes._device import require_device  # here, because it imports torch

        require_device(self.device)
        if self.method != "gptq":
            raise RecipeError(f"device: {self.method} rounds each weight where it lies; leave it out")

    def _weight_only_twin(self) -> str:
        twin = f"{self.dtype}_weight_only"
        return f", or take dtype: {twin}" if twin in registry.members("precisions") else ""

    @property
    def calibrated(self) -> bool:
        return self.activations == "calibrated"

    def precision(self, context: Context = Context()) -> Precision:
        """What layers are rounded to."""
        plain = self._plain
        options: dict[str, Any] = {"calibrated": True} if self.calibrated else {}
        if plain.groups_known:
            options["symmetric"] = self.symmetric
        if self.group is not None:
            options["group"] = self.group
        if plain.weight_bits_known:
            options["weight_bits"] = self.weight_bits or plain.weight_bits_known[-1 if context.destination == "onnx" else 0]
        return replace(plain, **options)

    @property
    def _plain(self) -> Precision:
        return precisions.usual(self.dtype)

    def _require_weight_bits(self, bits: int) -> None:
        known = self._plain.weight_bits_known
        if not known:
            raise RecipeError(f"weight_bits: {self.dtype} has no other; leave it out")
        if bits not in known:
            raise RecipeError(f"weight_bits: {bits} is none of {', '.join(map(str, known))}")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[WeightSite, Rounding]]:
        from sparsecc.calibration.statistics import largest_inputs  # here, because it imports torch

        sites = select(graph, WeightSite, self.targets, self.ignore)
        refused = {site.name: reason for site in sites if (reason := self._refuse(site, graph))}
        taken = [site for site in sites if site.name not in refused]
        if self.calibrated and taken and not context.calibration:
            raise RecipeError("activations: calibrated needs calibration inputs; pass calibration= (--calib)")
        if self.method == "gptq":
            found = self._fitted(graph, taken, context)
            yield from (Match(site, refused.get(site.name) or found[site.name]) for site in sites)
            return
        largest = largest_inputs(graph, taken, context) if self.calibrated else {}
        precision = self.precision(context)
        for site in sites:
            known = refused.get(site.name) or largest.get(site.name)
            yield Match(site, known if isinstance(known, Refused) else _round(site, precision, known))

    def _fitted(self, graph: Graph, sites: Sequence[WeightSite], context: Context) -> dict[str, Rounding | Refused]:
        """By gptq, one site after the other; sites that are dense count for those behind them as they are rounded."""
        from sparsecc.calibration.statistics import in_groups, work_in
        from sparsecc.passes._device import on_device

        if sites and not context.calibration:
            raise RecipeError("method: gptq needs calibration inputs; pass calibration= (--calib)")
        working, found, precision = on_device(graph, self.device).copy(), dict[str, Rounding | Refused](), self.precision(context)
        names = {site.name for site in sites}
        taken = [site for site in working.sites(WeightSite) if site.name in names]
        for group in in_groups(working, taken, ("hessian", "tokens"), context) if taken else ():
            made = each("rounding by gptq", group, work_in, lambda known: _fit(known[0], precision, known[1]))
            for (site, _), rounding in zip(group, made, strict=True):
                found[site.name] = rounding
                if isinstance(rounding, Rounding) and site.form is None:
                    working.set_weight(site, rounding.weight.dense(site.name))
                memory.trim()
                context.tell("quantizing by gptq", len(found), len(sites), site.name)
        return found

    def rewrite(self, graph: Graph, site: WeightSite, rounding: Rounding) -> None:
        from sparsecc.ops.quantized_linear.torch import QuantizedLinear

        came, weight = site.stored, rounding.weight
        there = next(iter(came.tensors.values())) if isinstance(came, Form) else came
        tensors = {name: tensor.to(there.device) for name, tensor in weight.tensors.items()}
        graph.replace(site, QuantizedLinear(replace(weight, tensors=tensors), site.bias))

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
    return _stored(site, precision.quantize(matrix, largest))


def _fit(site: WeightSite, precision: Precision, stats: Stats) -> Rounding | Refused:
    """By gptq, unless the nearest numbers are better, as where inputs say nothing of each other."""
    from sparsecc.calibration.statistics import relative_error
    from sparsecc.criteria.base import singular, unusable

    if reason := unusable(stats, ("hessian",)):
        return reason
    matrix, hessian = site.matrix, stats["hessian"]
    if not matrix.isfinite().all():
        return Refused("its weight holds NaN or infinity")
    near, fitted = precision.quantize(matrix), precision.quantize_for(matrix, hessian)
    errors = [relative_error(matrix, weight.dense(site.name), hessian) for weight in (fitted, near)]
    note = f", output error {errors[0]:.2%} by gptq instead of {errors[1]:.2%}{singular(int(stats['tokens']), site.cols)}"
    if errors[0] < errors[1]:
        return _stored(site, fitted, note)
    return _stored(site, near, f", to the nearest: output error {errors[1]:.2%}, by gptq {errors[0]:.2%}")


def _stored(site: WeightSite, weight: Quantized, note: str = "") -> Rounding:
    matrix = site.matrix
    whole = float(matrix.float().norm())
    error = float((weight.dense(site.name) - matrix.float()).norm()) / whole if whole else 0.0
    if site.packed is not None:
        weight = weight.packed(site.packed.format, matrix != 0)
    return Rounding(weight, error, note)
