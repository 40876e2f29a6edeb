"""The other engines that `sparsecc bench` times, each with the same threads, inputs and fp32 arithmetic."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
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
        call = _CALLS[name](model, {spec.name: np.asarray(value) for spec, value in zip(specs, values, strict=True)}, threads)
        call()
    except Exception as error:  # each engine has its own
        raise UserError(f"{name} cannot run {model}: {' '.join(str(error).split())[:300]}") from error
    return call


def onnxruntime_call(model: Path, feed: Mapping[str, np.ndarray], threads: int) -> Call:
    """The model on these inputs in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; a warning per odd initializer says nothing about the timing
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else its idle threads slow down whoever is timed next
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, dict(feed))


def openvino_call(model: Path, feed: Mapping[str, np.ndarray], threads: int, precision: str = "f32") -> Call:
    """The model on these inputs in OpenVINO.  precision: f32 or bf16; left to itself it takes bf16 where the CPU has it."""
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({name: list(value.shape) for name, value in feed.items()})
    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core.compile_model(network, "CPU", {"INFERENCE_NUM_THREADS": threads, **hints}).create_infer_request()
    return lambda: list(request.infer(dict(feed), share_inputs=True, share_outputs=True).values())


def _torch_call(model: Path, feed: Mapping[str, np.ndarray], threads: int) -> Call:
    import torch
    from torch.utils import _pytree as pytree

    torch.set_num_threads(threads)
    program = torch.export.load(str(model))
    module = program.module()
    assert program.call_spec.in_spec is not None
    args, kwargs = pytree.tree_unflatten([torch.from_numpy(value) for value in feed.values()], program.call_spec.in_spec)

    def call() -> Any:
        with torch.inference_mode():
            return module(*args, **kwargs)

    return call


_CALLS: dict[str, Callable[[Path, Mapping[str, np.ndarray], int], Call]] = {
    "onnxruntime": onnxruntime_call,
    "openvino": openvino_call,
    "torch": _torch_call,
}
