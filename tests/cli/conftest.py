"""Small models and a way to call the program."""

from __future__ import annotations

import json
import signal
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc import cli

INPUTS, HIDDEN = 64, 96
RECIPE = {"passes": [{"prune": {"pattern": "4x1", "sparsity": 0.5}}, {"pack": {}}]}


def two_layers(batch: int | str = "batch") -> onnx.ModelProto:
    """relu(x·w1 + b)·w2, x: [batch, INPUTS]."""
    generator = np.random.default_rng(0)
    weights = {
        "fc1.weight": generator.standard_normal((INPUTS, HIDDEN)).astype(np.float32),
        "fc1.bias": generator.standard_normal(HIDDEN).astype(np.float32),
        "fc2.weight": generator.standard_normal((HIDDEN, INPUTS)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "fc1.weight"], ["m"]),
        helper.make_node("Add", ["m", "fc1.bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "fc2.weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, INPUTS])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "in.onnx"
    onnx.save(two_layers(), path)
    return path


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(RECIPE))  # JSON is YAML
    return path


@pytest.fixture
def inputs(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((3, INPUTS)).astype(np.float32))
    return path


@pytest.fixture
def call(capsys):
    """Runs a command; answers with exit code, stdout, and stderr as a list of lines."""

    def run(*argv):
        code = cli.main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err.splitlines()

    return run


@pytest.fixture
def interruptible():
    """Starts a program as from a terminal: it hears Ctrl-C, also where these tests run in the background, which do not."""

    def start(command):
        def hear():
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear)

    return start
