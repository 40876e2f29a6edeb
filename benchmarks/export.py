"""Torch models as ONNX files for the engines that read those: exported once, kept under build/."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import machine

if TYPE_CHECKING:
    from torch import Tensor, nn

CACHE = Path(__file__).parents[1] / "build" / "benchmarks"


def exported(
    name: str, module: nn.Module, inputs: Sequence[Tensor], input_names: Sequence[str], free: Sequence[Sequence[int]] | None = None
) -> Path:
    """Path of the model in ONNX with the shapes of `inputs`. The file's name holds what it depends on: model, shapes, versions.

    free: for each input the axes whose sizes may change.

    Delete build/benchmarks after changing a model's weights.
    """
    versions = machine()["versions"]
    axes = free or [()] * len(inputs)
    shapes = "_".join(
        "x".join("n" if axis in among else str(size) for axis, size in enumerate(tensor.shape))
        for tensor, among in zip(inputs, axes, strict=True)
    )
    path = CACHE / f"{name}-{shapes}-torch{versions['torch']}-transformers{versions['transformers']}.onnx"
    if path.exists():
        return path
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    dynamic = None if free is None else tuple(dict.fromkeys(among, torch.export.Dim.DYNAMIC) for among in free)
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(inputs),
            partial,
            input_names=list(input_names),
            dynamic_shapes=dynamic,
            dynamo=True,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    partial.replace(path)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own deprecations, absent torchvision and constants it leaves alone; none of it is about the model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
