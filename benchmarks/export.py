"""Torch models as ONNX files for the engines that read those: exported once, kept under build/."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import machine

if TYPE_CHECKING:
    from torch import Tensor, nn

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"


def exported(name: str, module: nn.Module, inputs: Sequence[Tensor], input_names: Sequence[str]) -> Path:
    """Path of the model in ONNX with the shapes of `inputs`. The file's name holds what it depends on: model, shapes, versions.

    Delete build/benchmarks after changing a model's weights.
    """
    versions = machine()["versions"]
    shapes = "_".join("x".join(map(str, tensor.shape)) for tensor in inputs)
    path = CACHE / f"{name}-{shapes}-torch{versions['torch']}-transformers{versions['transformers']}.onnx"
    if path.exists():
        return path
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, none about the model
        torch.onnx.export(
            module, tuple(inputs), partial, input_names=list(input_names), dynamo=True, external_data=False, optimize=True, verbose=False
        )
    partial.replace(path)
    return path
