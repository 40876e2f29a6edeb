"""What follows a layer is folded into it, and what only looks like that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.codegen.numbers import SIZE
from sparsecc.codegen.recognize.program import Geometry, Layer, Node, Program, reads
from sparsecc.errors import ModelError
from sparsecc.ops.quantized_linear.torch import QuantizedLinear
from sparsecc.precisions.int8 import Int8
from tests.codegen.recognize.recognizing import layers, operators, recognized, recognized_onnx
from tests.codegen.whole import random
from tests.graph.onnx_models import model, node
from tests.graph.onnx_models import random as array

X = random(6, 8)
IMAGE = random(1, 8, 5, 5)
LINEAR, SQUARE = nn.Linear(8, 12), nn.Linear(8, 8, bias=False)
TWO = random(2, 8, 3)
CONV, POINTWISE = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)


def folded(module: nn.Module | Callable[..., Tensor], *inputs: Tensor) -> Layer:
    program = recognized(module, *inputs)
    assert operators(program) == ["layer"]
    return layers(program)[0]


class Rounded(nn.Module):
    """LINEAR in int8, as a rewritten graph holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.op = QuantizedLinear(Int8().quantize(LINEAR.weight.detach()))
        for name, tensor in self.op.tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        target, options = self.op.torch_call("fc")
        return target(x, [self.values, self.scales], None, *options)


def test_weights_in_numbers_without_a_kernel_are_float32_and_inputs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert folded(Rounded(), X).dtype == "int8"
    monkeypatch.delitem(SIZE, "int8")
    with pytest.raises(ModelError, match=r"^layer 'fc': its inputs are rounded to int8, kernels know bfloat16; convert to ONNX instead$"):
        recognized(Rounded(), X)
    monkeypatch.setattr(Int8, "rounds_inputs", False)
    layer = folded(Rounded(), X)
    assert layer.dtype == "float32"
    assert np.array_equal(layer.numbers.matrix, Rounded().op.stored.dense().numpy())


def test_linear_with_bias() -> None:
    layer = folded(LINEAR, X)
    assert np.array_equal(layer.matrix, LINEAR.weight.detach().numpy())
    assert layer.bias is not None
    assert np.array_equal(layer.bias, LINEAR.bias.detach().numpy())
    assert (layer.activation, layer.residual, layer.site, layer.geometry) == (None, None, None, None)


def test_conv2d_with_its_geometry_and_the_channels_of_a_tap_together() -> None:
    conv = nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    layer = folded(conv, random(1, 3, 9, 9))
    assert layer.geometry is not None
    assert (layer.geometry.kernel, layer.geometry.stride) == ((2, 3), (2, 1))
    assert (layer.geometry.padding, layer.geometry.dilation) == ((1, 0, 1, 0), (1, 2))
    assert np.array_equal(layer.matrix.reshape(4, 2, 3, 3), conv.weight.detach().permute(0, 2, 3, 1).numpy())
    assert layer.bias is not None
    assert np.array_equal(layer.bias, conv.bias.detach().numpy())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "activation"),
    {
        "relu": torch.relu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "silu": functional.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "hardswish": functional.hardswish,
        "hardsigmoid": functional.hardsigmoid,
        "relu6": functional.relu6,
    }.items(),
)
@pytest.mark.parametrize(("layer", "x"), [(LINEAR, X), (CONV, IMAGE)], ids=["linear", "conv2d"])
def test_activations(layer: nn.Module, x: Tensor, name: str, activation: Callable[[Tensor], Tensor]) -> None:
    found = folded(lambda value: activation(layer(value)), x)
    assert (found.activation, found.bias is not None) == (name, True)


def test_only_the_first_activation_is_folded() -> None:
    program = recognized(lambda x: torch.tanh(torch.relu(LINEAR(x))), X)
    assert operators(program) == ["layer", "tanh"]
    assert layers(program)[0].activation == "relu"


def test_other_functions_are_not_folded() -> None:
    program = recognized(lambda x: LINEAR(x).exp(), X)
    assert operators(program) == ["layer", "exp"]
    assert layers(program)[0].activation is None


def test_a_second_bias_is_added_to_the_first() -> None:
    layer = folded(lambda x: LINEAR(x) + torch.arange(12.0) + 2.0, X)
    assert layer.bias is not None
    assert np.allclose(layer.bias, LINEAR.bias.detach().numpy() + np.arange(12) + 2)


@pytest.mark.parametrize(
    ("added", "bias"),
    {
        "channels": (torch.arange(8.0)[:, None, None], True),
        "columns": (torch.arange(5.0), False),
        "all": (random(1, 8, 5, 5), False),
    }.values(),
    ids=str,
)
def test_the_bias_of_a_convolution_is_along_its_channels(added: Tensor, bias: bool) -> None:
    program = recognized(lambda x: CONV(x) + added, IMAGE)
    assert operators(program) == (["layer"] if bias else ["layer", "add"])


def test_a_square_image_s_columns_are_no_channels() -> None:
    """As many columns as channels."""
    assert operators(recognized(lambda x: CONV(x) + torch.arange(8.0), random(1, 8, 8, 8))) == ["layer", "add"]


def test_a_constant_of_another_axis_is_no_bias() -> None:
    assert operators(recognized(lambda x: SQUARE(x) + torch.arange(8.0)[:, None], random(8, 8))) == ["layer", "add"]


def test_a_bias_behind_the_activation_is_not_folded() -> None:
    program = recognized(lambda x: torch.relu(LINEAR(x)) + torch.arange(12.0), X)
    assert operators(program) == ["layer", "add"]


@pytest.mark.parametrize("first", [True, False], ids=["layer + x", "x + layer"])
def test_residual(first: bool) -> None:
    layer = folded(lambda x: SQUARE(x) + x if first else x + SQUARE(x), X)
    assert layer.residual is not None
    assert layer.residual == layer.x
    assert not layer.residual_first


def test_activation_then_residual_and_the_other_way_round() -> None:
    after, before = folded(lambda x: x + torch.relu(SQUARE(x)), X), folded(lambda x: torch.relu(x + SQUARE(x)), X)
    assert (after.activation, after.residual is not None, after.residual_first) == ("relu", True, False)
    assert (before.activation, before.residual is not None, before.residual_first) == ("relu", True, True)


def test_only_one_residual() -> None:
    program = recognized(lambda x, y: SQUARE(x) + x + y, X, X)
    assert operators(program) == ["layer", "add"]


def test_a_layer_waits_for_its_residual() -> None:
    """The residual is made between the layer and the sum."""
    program = recognized(lambda x: SQUARE(x) + x.exp(), X)
    assert operators(program) == ["exp", "layer"]
    assert layers(program)[0].residual == program.nodes[0].var


def test_two_layers_that_are_added() -> None:
    program = recognized(lambda x: SQUARE(x) + POINTED(x), X)
    assert operators(program) == ["layer", "layer"]
    assert [layer.residual is not None for layer in layers(program)].count(True) == 1


POINTED = nn.Linear(8, 8)


@pytest.mark.parametrize("shape", [(1, 8), (6, 1), (8,), (2, 6, 8)], ids=str)
def test_a_residual_that_broadcasts_is_not_folded(shape: tuple[int, ...]) -> None:
    program = recognized(lambda x, y: SQUARE(x) + y, X, random(*shape))
    assert operators(program) == ["layer", "add"]


def test_a_residual_wider_than_the_layer_is_not_folded() -> None:
    assert operators(recognized(lambda x, y: nn.functional.relu(SQUARE(x[:1]) + y), X, X))[-2:] == ["add", "nn.relu"]


def test_difference_and_product_are_no_residual() -> None:
    assert operators(recognized(lambda x: SQUARE(x) - x, X)) == ["layer", "subtract"]
    assert operators(recognized(lambda x: SQUARE(x) * x, X)) == ["layer", "multiply"]


def test_twice_the_same_is_no_residual() -> None:
    assert operators(recognized(lambda x: (lambda y: y + y)(SQUARE(x)), X)) == ["layer", "add"]


def test_what_is_also_an_output_stays() -> None:
    program = recognized(lambda x: (lambda y: (y, torch.relu(y)))(LINEAR(x)), X)
    assert operators(program) == ["layer", "nn.relu"]
    assert layers(program)[0].activation is None


def test_what_is_read_twice_stays() -> None:
    program = recognized(lambda x: (lambda y: torch.relu(y) * y.exp())(LINEAR(x)), X)
    assert sorted(operators(program)) == ["exp", "layer", "multiply", "nn.relu"]


def test_residual_of_a_pointwise_convolution_alone() -> None:
    """Only there have the result and the residual the same pitch."""
    assert operators(recognized(lambda x: POINTWISE(x) + x, IMAGE)) == ["layer"]
    assert operators(recognized(lambda x: CONV(x) + x, IMAGE)) == ["layer", "add"]
    strided = nn.Conv2d(8, 8, 1, stride=2)
    assert operators(recognized(lambda x, y: strided(x) + y, IMAGE, random(1, 8, 3, 3))) == ["layer"]


@pytest.mark.parametrize(
    ("function", "inputs"),
    {
        "two inputs": (lambda x, y: x @ y, (X, random(8, 3))),
        "weight on the left": (lambda x: TWO[:, :6, 0] @ x, (X,)),
        "weight of three axes": (lambda x: x @ TWO, (random(2, 6, 8),)),
        "vector": (lambda x: x @ TWO[0], (random(8),)),
        "groups": (nn.Conv2d(8, 8, 3, groups=2), (IMAGE,)),
        "filters from an input": (functional.conv2d, (IMAGE, random(4, 8, 3, 3))),
    }.values(),
    ids=["two inputs", "weight on the left", "three axes", "vector", "groups", "filters from an input"],
)
def test_products_that_are_no_layer(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    assert layers(recognized(function, *inputs)) == []


def test_a_line_is_an_image_of_height_1() -> None:
    conv, x = nn.Conv1d(8, 4, 3, stride=2, padding=1), random(1, 8, 9)
    line = folded(lambda x: conv(x).relu(), x)
    lifted = folded(lambda x: functional.conv2d(x[:, :, None], conv.weight[:, :, None], conv.bias, (1, 2), (0, 1)).squeeze(2).relu(), x)
    for layer in (line, lifted):
        assert layer.geometry == Geometry((1, 3), (1, 2), (0, 1, 0, 1), (1, 1))
        assert (layer.activation, layer.bias is not None) == ("relu", True)
        assert np.array_equal(layer.matrix.reshape(4, 3, 8), conv.weight.detach().permute(0, 2, 1).numpy())


def test_a_transposed_convolution_that_overlaps_is_one_of_its_phases() -> None:
    conv = nn.ConvTranspose2d(8, 2, (1, 4), (1, 2), (0, 1))
    layer = folded(conv, IMAGE)
    assert layer.geometry == Geometry((1, 2), (1, 1), (0, 1, 0, 0), (1, 1), phases=(1, 2), crop=(0, 1))
    phases = layer.matrix.reshape(2, 2, 2, 8)  # phase, output, tap, input
    weight = conv.weight.detach().numpy()
    assert np.array_equal(phases[1, :, 0], weight[:, :, 0, 3].T), "the tap farthest to the left is the last one"
    assert np.array_equal(layer.bias, np.tile(conv.bias.detach().numpy(), 2))  # type: ignore[arg-type, union-attr]


def test_a_transposed_and_reshaped_weight_is_seen_through() -> None:
    weight = random(4, 2, 8)
    layer = folded(lambda x: x @ weight.reshape(8, 8).T, X)
    assert np.array_equal(layer.matrix, weight.reshape(8, 8).numpy())


def test_onnx_forms() -> None:
    """MatMul and Add with the bias in front; Gemm with a turned weight; Conv with asymmetric padding."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Add", "b h", "i"),
        node("Relu", "i", "j"),
        node("Gemm", "j v c", "y", transB=1),
    ]
    weights = {"w": array(8, 12), "b": array(12), "v": array(5, 12), "c": array(5)}
    first, second = layers(recognized_onnx(model(nodes, {"x": [6, 8]}, {"y": [6, 5]}, weights)))
    assert np.array_equal(first.matrix, weights["w"].T)
    assert np.array_equal(second.matrix, weights["v"])
    assert (first.activation, second.activation) == ("relu", None)
    assert second.bias is not None
    assert np.array_equal(second.bias, weights["c"])
    conv = model([node("Conv", "x w", "y", pads=[0, 1, 2, 3])], {"x": [1, 2, 6, 6]}, {"y": [1, 4, 6, 8]}, {"w": array(4, 2, 3, 3)})
    [layer] = layers(recognized_onnx(conv))
    assert layer.geometry is not None
    assert layer.geometry.padding == (0, 1, 2, 3)


def test_what_is_absorbed_leaves_producers_and_users_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """As counted anew, after each step."""
    steps = 0

    def absorb(program: Program, node: Node, user: Node, before: list[Any]) -> None:
        nonlocal steps
        usual(program, node, user, before)
        steps += 1
        assert program.producer == {node.var: node for node in program.nodes}
        users: dict[Any, list[int]] = {}
        for reader in program.nodes:
            for var in reads(reader):
                users.setdefault(var, []).append(id(reader))
        assert {var: sorted(map(id, found)) for var, found in program.users.items() if found} == {
            v: sorted(ids) for v, ids in users.items()
        }

    usual = Program.absorb
    monkeypatch.setattr(Program, "absorb", absorb)
    first, second, conv = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Conv2d(3, 8, 3)
    recognized(lambda x: second(first(x).relu()) + x * 2 + first(x), random(2, 4, 8))
    recognized(lambda x: (conv(x) * 2).relu() + conv(x).sigmoid(), random(1, 3, 6, 6))
    assert steps >= 6
