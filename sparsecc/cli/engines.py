"""The other engines that `sparsecc bench` times, each with the same threads, inputs and fp32 arithmetic."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.errors import UserError
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from sparsecc.graph.base import TensorSpec

Call = Callable[[], Any]
_TAKES = {"onnxruntime": ".onnx", "openvino": ".onnx", "torch": ".pt2"}


def usable(model: Path) -> list[str]:
    """Engines that are installed and read this kind of file."""
    return [name for name, suffix in _TAKES.items() if suffix == model.suffix and importlib.util.find_spec(name)]


def prepare(name: str, model: Path | None, specs: Sequence[TensorSpec], values: Sequence[Any], threads: int) -> Call:
    """A call without arguments that works. Raises UserError for an engine that is unknown, not installed, or cannot run the model."""
    if name not in _TAKES:
        raise UserError(f"--against: no engine {name!r}{did_you_mean(name, list(_TAKES))}")
    if not importlib.util.find_spec(name):
        raise UserError(f"--against: {name} is not installed")
    if model is None or model.suffix != _TAKES[name]:
        raise UserError(f"--against: {name} needs a {_TAKES[name]} file; leave it out")
    try:
        call = _PREPARE[name](model, specs, [np.asarray(value) for value in values], threads)
        call()
    except Exception as error:  # each engine has its own
        raise UserError(f"{name} cannot run {model}: {' '.join(str(error).split())[:300]}") from error
    return call


def _onnxruntime(model: Path, specs: Sequence[TensorSpec], values: Sequence[np.ndarray], threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else its idle threads slow down whoever is timed next
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {spec.name: value for spec, value in zip(specs, values, strict=True)}
    return lambda: session.run(None, feed)


def _openvino(model: Path, specs: Sequence[TensorSpec], values: Sequence[np.ndarray], threads: int) -> Call:
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({spec.name: list(value.shape) for spec, value in zip(specs, values, strict=True)})
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    feed = {spec.name: value for spec, value in zip(specs, values, strict=True)}
    return lambda: request.infer(feed)


def _torch(model: Path, specs: Sequence[TensorSpec], values: Sequence[np.ndarray], threads: int) -> Call:
    import torch
    from torch.utils import _pytree as pytree

    torch.set_num_threads(threads)
    program = torch.export.load(str(model))
    module = program.module()
    assert program.call_spec.in_spec is not None
    args, kwargs = pytree.tree_unflatten([torch.from_numpy(value) for value in values], program.call_spec.in_spec)

    def call() -> Any:
        with torch.inference_mode():
            return module(*args, **kwargs)

    return call


_PREPARE: dict[str, Callable[[Path, Sequence[Any], Sequence[np.ndarray], int], Call]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
}
