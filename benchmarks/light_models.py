"""The classification networks of ONNX's own back-end tests, with weights worth the name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from models._carrier import carried


def drawn(name: str, folder: Path) -> Path:
    """A file in `folder` with the network `name` ("squeezenet", "vgg19") of the installed onnx package, its weights drawn."""
    path = folder / f"{name}.onnx"
    onnx.save(draw_weights(onnx.load(carried("onnx", f"backend/test/data/light/light_{name}.onnx", "onnx"))), path)
    return path


def draw_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Draw what the light models leave out.

    They carry each weight as a ConstantOfShape, which a kernel that mixes up channels would still compute correctly. Each becomes
    an initializer drawn for the role that it has at its consumer. What enters a Softmax becomes an output too, because with drawn
    weights the Softmax may saturate and hide everything. Changes the model given and returns it.
    """
    rng = np.random.default_rng(0)
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = [n for n in model.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in known]
    for node in constants:
        shape = tuple(int(d) for d in numpy_helper.to_array(known[node.input[0]]))
        values = _draw(_role(model, node.output[0]), shape, rng)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    model.ir_version = max(model.ir_version, 4)  # before 4 every initializer had to be an input too
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in weights]:
        model.graph.input.remove(value)
    softmaxed = [node.input[0] for node in model.graph.node if node.op_type == "Softmax"]
    inferred = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(inferred[name] for name in softmaxed)
    return model


def _role(model: onnx.ModelProto, name: str) -> tuple[str, int]:
    """(operator, input number) that reads a tensor, looking through Unsqueeze."""
    for node in model.graph.node:
        if name in node.input:
            return _role(model, node.output[0]) if node.op_type == "Unsqueeze" else (node.op_type, list(node.input).index(name))
    return "", 0


def _draw(role: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    match role:
        case ("Conv" | "Gemm", 1):
            return noise * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5  # He et al. 2015
        case ("BatchNormalization", 4):
            return np.exp(0.2 * noise)
        case ("BatchNormalization" | "Mul", 1):
            return 1 + 0.1 * noise
    return 0.1 * noise
