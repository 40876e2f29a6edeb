from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from sparsecc.codegen.importers.onnx.importer import import_onnx
from sparsecc.errors import ModelError
from tests.codegen.importers.onnx.test_operators import build
from tests.codegen.whole import check_onnx
from tests.graph.onnx_models import random

STEPS, BATCH, INPUTS, HIDDEN = 5, 3, 10, 12
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def layer(op_type: str, place: int, given: str, directions: int = 1, hidden: int = HIDDEN, **how: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """given: names of the inputs after x, W and R. Outputs are y0, h0 (and c0) for the first layer, and so on."""
    weights = {
        f"W{place}": 0.5 * random(directions, GATES[op_type] * hidden, INPUTS, seed=place),
        f"R{place}": 0.5 * random(directions, GATES[op_type] * hidden, hidden, seed=place),
        f"B{place}": random(directions, 2 * GATES[op_type] * hidden, seed=place),
        f"P{place}": random(directions, 3 * hidden, seed=place),
    }
    names = [name.replace("_", "").replace("*", str(place)) for name in f"x W* R* {given}".split()]
    outputs = [f"{name}{place}" for name in ("y", "h", "c")[: 3 if op_type == "LSTM" else 2]]
    return helper.make_node(op_type, names, outputs, name=f"{op_type}{place}", hidden_size=hidden, **how), {
        name: array for name, array in weights.items() if name in names
    }


def test_layers_against_onnxruntime() -> None:
    """One direction and both, with and without states, biases and peepholes; hidden sizes that fill the vectors, and that do not."""
    both = {"directions": 2, "direction": "bidirectional"}
    layers = [
        layer("LSTM", 1, "B* _ h c P*", **both),
        layer("LSTM", 2, "B*", hidden=32, direction="reverse", activations=["HardSigmoid", "Relu", "Tanh"]),
        layer("GRU", 3, "B* _ first"),
        layer("GRU", 4, "B*", linear_before_reset=1, **both),
        layer("RNN", 5, "B*", activations=["Relu", "Tanh"], **both),
    ]
    states = {"h": random(2, BATCH, HIDDEN), "c": random(2, BATCH, HIDDEN), "first": random(1, BATCH, HIDDEN)}
    feeds = {"x": random(STEPS, BATCH, INPUTS)} | states
    weights = {name: array for _, found in layers for name, array in found.items()}
    check_onnx(build([node for node, _ in layers], feeds, weights), *feeds.values())


def test_sequences_of_different_lengths_against_onnxruntime() -> None:
    both = {"directions": 2, "direction": "bidirectional"}
    layers = [
        layer("LSTM", 1, "B* lengths h c P*", **both),
        layer("LSTM", 2, "B* lengths", hidden=32, direction="reverse", activations=["HardSigmoid", "Tanh", "Tanh"]),
        layer("GRU", 3, "B* lengths first", linear_before_reset=1),
        layer("GRU", 4, "B* fixed", **both),
        layer("RNN", 5, "B* lengths", **both),
    ]
    states = {"h": random(2, BATCH, HIDDEN), "c": random(2, BATCH, HIDDEN), "first": random(1, BATCH, HIDDEN)}
    feeds = {"x": random(STEPS, BATCH, INPUTS), "lengths": np.array([STEPS, 1, 3], np.int32)} | states
    weights = {"fixed": np.array([2, 5, 4], np.int32)} | {name: array for _, found in layers for name, array in found.items()}
    check_onnx(build([node for node, _ in layers], feeds, weights), *feeds.values())


def single(given: str = "", feeds: dict[str, np.ndarray] | None = None, **how: Any) -> onnx.ModelProto:
    node, weights = layer("LSTM", 0, given, **how)
    return build([node], {"x": random(STEPS, BATCH, INPUTS)} | (feeds or {}), weights)


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (
            single("B* lengths", {"lengths": np.array([5, 4, 3], np.int32)}, activations=["Tanh"] * 3),
            "sequence_lens with gates by Tanh: not supported, only by Sigmoid and HardSigmoid",
        ),
        (single(clip=1.0), "clip and input_forget are not supported"),
        (single(activations=["Softsign", "Tanh", "Tanh"]), "activation Softsign is not supported, only Sigmoid, Tanh, Relu, HardSigmoid"),
    ],
    ids=["lengths", "clip", "activation"],
)
def test_what_is_refused_names_the_layer(proto: onnx.ModelProto, said: str) -> None:
    with pytest.raises(ModelError, match=rf"LSTM \(at 'LSTM0'\): .*{said}"):
        import_onnx(proto)


def test_the_product_with_the_inputs_is_a_layer_and_the_rest_one_placeholder_for_each_direction() -> None:
    found = import_onnx(single(directions=2, direction="bidirectional"))
    assert [(p.kind, p.name, p.attributes["spec"].reverse) for p in found.placeholders.values()] == [
        ("recurrent", "LSTM", False),
        ("recurrent", "LSTM", True),
    ]
    spec = next(iter(found.placeholders.values())).attributes["spec"]
    assert (spec.hidden, spec.depth, spec.rows, spec.out) == (16, 12, 64, (STEPS + 1, BATCH, 16))
