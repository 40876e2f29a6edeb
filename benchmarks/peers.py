"""The engines that a model is timed on, behind one small protocol: load once, then call without arguments.

Every engine gets the same inputs, the same number of threads and fixed shapes, because each of them is at its best so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks.quantize import onnxruntime_int8, openvino_int8
from sparsecc.cli.engines import onnxruntime_call, openvino_call

if TYPE_CHECKING:
    from torch import nn

Call = Callable[[], Sequence[Any]]  # arrays


@dataclass(frozen=True)
class Workload:
    """One model in the forms that engines read, with inputs by name in the model's order.

    onnx: the model as a file, static or not.  module: the same as torch module, None when the model came as ONNX.
    calibration: more inputs of the same shapes, for engines that quantize; those above where there are none.
    """

    name: str
    onnx: Path
    inputs: Mapping[str, np.ndarray] = field(repr=False)
    module: nn.Module | None = field(default=None, repr=False)
    calibration: Sequence[Mapping[str, np.ndarray]] = field(default=(), repr=False)


class Engine(Protocol):
    """A frozen dataclass; its fields are the engine's options."""

    @property
    def name(self) -> str: ...

    def load(self, workload: Workload, threads: int) -> Call:
        """A call that runs the model once and returns its outputs, flat."""
        ...


@dataclass(frozen=True)
class OnnxRuntime:
    name: str = "onnxruntime"

    def load(self, workload: Workload, threads: int) -> Call:
        return onnxruntime_call(workload.onnx, workload.inputs, threads)


@dataclass(frozen=True)
class OpenVino:
    precision: str = "f32"

    @property
    def name(self) -> str:
        return f"openvino {self.precision}"

    def load(self, workload: Workload, threads: int) -> Call:
        return openvino_call(workload.onnx, workload.inputs, threads, self.precision)


@dataclass(frozen=True)
class OnnxRuntimeInt8:
    """static: activations by the ranges that the calibration inputs have, not by those of each run."""

    static: bool = False

    @property
    def name(self) -> str:
        return "onnxruntime int8 static" if self.static else "onnxruntime int8"

    def load(self, workload: Workload, threads: int) -> Call:
        samples = (workload.calibration or [workload.inputs]) if self.static else ()
        return onnxruntime_call(onnxruntime_int8(workload.onnx, samples), workload.inputs, threads)


@dataclass(frozen=True)
class OpenVinoInt8:
    """transformer: what NNCF is told of the model.  precision: of the operators that it leaves in float."""

    transformer: bool
    precision: str = "f32"

    @property
    def name(self) -> str:
        return f"openvino int8 {self.precision}"

    def load(self, workload: Workload, threads: int) -> Call:
        quantized = openvino_int8(workload.onnx, workload.calibration or [workload.inputs], self.transformer)
        return openvino_call(quantized, workload.inputs, threads, self.precision)


@dataclass(frozen=True)
class Torch:
    """Eager mode. The number of threads is the process's: the last one loaded decides."""

    name: str = "torch"

    def load(self, workload: Workload, threads: int) -> Call:
        import torch

        if workload.module is None:
            raise ValueError(f"{workload.name}: came as an ONNX file, there is no torch module to run")
        module = workload.module
        inputs = [torch.from_numpy(value) for value in workload.inputs.values()]
        torch.set_num_threads(threads)

        def call() -> Sequence[np.ndarray]:
            with torch.inference_mode():
                return flat(module(*inputs))

        return call


@dataclass(frozen=True)
class Sparsecc:
    """Compiles the module where there is one, else the file. `recipe` as in sparsecc.compile; None leaves the weights as they are."""

    name: str = "sparsecc"
    recipe: Any = field(default=None, hash=False)

    def load(self, workload: Workload, threads: int) -> Call:
        return call_of(self.compile(workload, threads), workload)

    def compile(self, workload: Workload, threads: int) -> Any:
        """The Compiled itself, for whoever wants its report too."""
        import torch

        import sparsecc

        if workload.module is None:
            shapes = {name: value.shape for name, value in workload.inputs.items()}
            return sparsecc.compile(workload.onnx, recipe=self.recipe, threads=threads, input_shapes=shapes)
        inputs = tuple(torch.from_numpy(value) for value in workload.inputs.values())
        return sparsecc.compile(workload.module, inputs, recipe=self.recipe, threads=threads)


def call_of(compiled: Any, workload: Workload) -> Call:
    """A sparsecc.Compiled on the workload's inputs, numpy in and out."""
    inputs = list(workload.inputs.values())
    return lambda: flat(compiled(*inputs))


def flat(outputs: Any) -> list[np.ndarray]:
    """The tensors of a model's output as arrays, in order: through tuples, dicts and transformers' ModelOutput; None is left out."""
    if outputs is None:
        return []
    if isinstance(outputs, Mapping):
        return [array for value in outputs.values() for array in flat(value)]
    if isinstance(outputs, (tuple, list)):
        return [array for value in outputs for array in flat(value)]
    return [np.asarray(outputs)]


def max_relative_error(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Largest absolute difference over the reference's largest magnitude, over all outputs; inf when shapes differ, NaN for NaN."""
    if [o.shape for o in outputs] != [r.shape for r in reference]:
        return float("inf")
    pairs = [(o.astype(np.float64), r) for o, r in zip(outputs, reference, strict=True) if r.size]
    return float(np.max([0.0, *(np.abs(o - r).max() / max(np.abs(r).max(), 1e-30) for o, r in pairs)]))
