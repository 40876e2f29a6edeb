"""An operator as onnxruntime runs it, and as it runs what the operator was taken apart into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sparsecc.graph.onnx.contrib import take_apart
from tests.graph.onnx_models import run

RNG = np.random.default_rng(0)
Arrays = Mapping[str, np.ndarray]


def floats(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 250, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def single(
    op_type: str,
    inputs: str,
    feeds: Arrays,
    weights: Arrays | None = None,
    outputs: str = "y",
    domain: str = "com.microsoft",
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one operator. inputs, outputs: names with blanks between, `_` for one left out; feeds and weights say which is which."""
    named = [[name.replace("_", "") for name in names.split()] for names in (inputs, outputs)]
    node = helper.make_node(op_type, *named, name="only", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "single",
        [helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for key, x in feeds.items()],
        [helper.make_empty_tensor_value_info(name) for name in named[1] if name],
        [numpy_helper.from_array(x, key) for key, x in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def check_half(op_type: str, inputs: str, feeds: Arrays, weights: Arrays | None = None, **how: Any) -> None:
    """Taken apart in float16, it computes what it does in float32, which more operators of onnxruntime have kernels for."""
    wide = take_apart_and_run(op_type, inputs, feeds, weights or {}, **how)
    halves = [{name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in given.items()} for given in (feeds, weights or {})]
    for ours, oracle in zip(take_apart_and_run(op_type, inputs, *halves, **how), wide, strict=True):
        assert ours.dtype == (np.float16 if oracle.dtype == np.float32 else oracle.dtype)
        assert np.allclose(ours, oracle, atol=4e-3 * max(1.0, float(np.abs(oracle).max())))


def take_apart_and_run(op_type: str, inputs: str, feeds: Arrays, weights: Arrays, **how: Any) -> list[np.ndarray]:
    proto = single(op_type, inputs, feeds, weights, **how)
    assert take_apart(proto)
    assert not [node.op_type for node in proto.graph.node if node.domain]
    return run(proto, **feeds)


def check(op_type: str, inputs: str, feeds: Arrays, weights: Arrays | None = None, steps: int = 0, **how: Any) -> onnx.ModelProto:
    """Taken apart, it computes the same. steps: that a rounded result may be off."""
    proto = single(op_type, inputs, feeds, weights, **how)
    expected = run(proto, **feeds)
    assert take_apart(proto)
    assert not [node.op_type for node in proto.graph.node if node.domain]
    for ours, oracle in zip(run(proto, **feeds), expected, strict=True):
        assert (ours.shape, ours.dtype) == (oracle.shape, oracle.dtype)
        if steps:
            assert np.abs(ours.astype(int) - oracle.astype(int)).max() <= steps
        else:
            assert np.allclose(ours, oracle, atol=2e-5 * max(1.0, float(np.abs(oracle).max())))
    return proto
