"""Real models for the demo, the tests and the benchmarks: one file per model, found by name, imported when asked for.

Every member has the same four functions, so that a benchmark written for one runs on all:

    build() -> nn.Module | Path            eval-mode torch module, or the path of an .onnx file; the same weights every time
    example_inputs(batch=1, ...) -> tuple[Tensor, ...] | dict[str, ndarray]
                                           torch models: forward's positional arguments; ONNX models: arrays by input name
    recipe() -> dict                       what sparsecc.compile and sparsecc.convert take as `recipe`
    calibration(count) -> Iterator         `count` samples, each as example_inputs() would give it for batch 1

Files whose names begin with an underscore are shared helpers; `decoders` holds steps of decoding with a cache, `train` how the models were
made whose weights are our own (weights/).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sparsecc.errors import UserError
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from torch import nn

Sample = Any  # tuple of tensors or dict of arrays: see the module's docstring


class Model(Protocol):
    """What a module in this package offers."""

    def build(self) -> nn.Module | Path: ...
    def example_inputs(self, batch: int = 1) -> Sample: ...
    def recipe(self) -> dict[str, Any]: ...
    def calibration(self, count: int) -> Iterator[Sample]: ...


def names() -> list[str]:
    """All models, sorted, without importing them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg and not m.name.startswith("_"))


def load(name: str) -> Model:
    """One model's module. Raises UserError with the nearest valid name when there is none."""
    if name not in names():
        raise UserError(f"models: no {name!r}{did_you_mean(name, names())}")
    return cast(Model, importlib.import_module(f"{__name__}.{name}"))
