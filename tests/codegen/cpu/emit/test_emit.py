"""How a program is written down again: what is shared, and what is not turned from one form into another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.codegen.backend import Emitted
from sparsecc.codegen.choose import Chooser
from sparsecc.codegen.cpu.emit.emit import emit
from tests.codegen.recognize.recognizing import recognized
from tests.codegen.whole import HERE, compare, random
from tests.tolerance import assert_close

X = random(2, 32, 8)
LAYERS = [nn.Linear(8, 8) for _ in range(3)]


def emitted(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> Emitted:
    return emit(recognized(module, *inputs), HERE, Chooser(HERE, measure=False))


def turns(found: Emitted) -> int:
    return str(found.module).count("R.permute_dims(")


def kernels(found: Emitted, name: str) -> int:
    return sum(gvar.name_hint.startswith(name) for gvar in found.module.functions)


def kernels_called(found: Emitted, name: str) -> int:
    return str(found.module).count(f"cls.{name}")


def test_layers_of_one_shape_share_a_kernel() -> None:
    found = emitted(nn.Sequential(*LAYERS), X)
    assert kernels(found, "dense_matmul") == 1


def test_another_epilogue_is_another_kernel() -> None:
    assert kernels(emitted(lambda x: LAYERS[0](functional.relu(LAYERS[1](x))), X), "dense_matmul") == 2


def test_between_layers_nothing_is_turned() -> None:
    """Only the input into tiles and the result out of them, whatever elementwise work and normalization lies between."""
    norm = nn.LayerNorm(8)
    assert turns(emitted(nn.Sequential(*LAYERS), X)) == 2
    assert turns(emitted(lambda x: LAYERS[1](norm(LAYERS[0](x)).exp() * 2 + torch.arange(8.0)), X)) == 2
    assert turns(emitted(lambda x: LAYERS[1](LAYERS[0](x).exp() + LAYERS[2](x).tanh().abs()), X)) == 2


def test_attention_reads_the_projections_where_they_lie() -> None:
    def attend(x: Tensor) -> Tensor:
        q, k, v = (layer(x).reshape(2, 32, 2, 4).transpose(1, 2) for layer in LAYERS)
        y = functional.scaled_dot_product_attention(q, k, v)
        return LAYERS[0](y.transpose(1, 2).reshape(2, 32, 8))

    assert turns(emitted(attend, X)) == 2


def test_attention_to_constants() -> None:
    """As in the first layer of a decoder whose queries are weights: what depends on no input is folded, and has no layer that made it."""
    values, heads = random(2, 2, 32, 4, seed=1), random(2, 2, 32, 4)
    attend = functional.scaled_dot_product_attention
    outputs = compare({"v": (lambda x: attend(x, x, values), (heads,)), "k and q": (lambda x: attend(values, values, x), (heads,))})
    for [(got, expected)] in outputs.values():
        assert_close(got, expected)


def test_what_mixes_tokens_gets_its_natural_order() -> None:
    norm = nn.LayerNorm(8)
    assert turns(emitted(lambda x: LAYERS[0](x).softmax(1), X)) == 2
    assert turns(emitted(lambda x: norm(LAYERS[1](LAYERS[0](x).softmax(1))), X)) == 4


def test_a_value_is_turned_once_for_all_that_read_it() -> None:
    assert turns(emitted(lambda x: (LAYERS[0](x), LAYERS[1](x)), X)) == 3


def test_large_constants_become_weights_and_small_ones_stay_in_the_code() -> None:
    found = emitted(lambda x: x + torch.arange(8.0) + torch.arange(256.0).reshape(32, 8), X)
    assert [array.shape for array in found.weights.values()] == [(32, 8)]


def test_few_tokens_stay_as_they_are() -> None:
    norm = nn.LayerNorm(8)
    found = emitted(lambda x: LAYERS[1](norm(LAYERS[0](x).exp() * 2 + torch.arange(8.0))) + x, random(2, 3, 8))
    assert turns(found) == 0
    assert kernels(found, "turn_tokens") == 0
    assert kernels(found, "dense_matvec") == 2


def test_a_layer_between_nothing_that_has_tiles_leaves_tokens_as_they_are() -> None:
    alone = emitted(LAYERS[0], X)
    assert (turns(alone), kernels(alone, "dense_matvec")) == (0, 1)

    def to_heads(x: Tensor) -> Tensor:
        return LAYERS[0](x).reshape(2, 32, 2, 4).transpose(1, 2)

    heads = emitted(to_heads, X)
    assert (turns(heads), kernels(heads, "dense_matvec")) == (1, 1)
    large = emitted(nn.Linear(1024, 1024), random(64, 1024))  # weights that do not stay in the L2
    assert kernels(large, "dense_matmul") == 1
    [(got, expected)] = compare({"heads": (to_heads, (X,))})["heads"]
    assert_close(got, expected)


def test_phases_with_fewer_taps_multiply_no_zeros() -> None:
    """A kernel of 3 and a stride of 2 are phases of 4, 2, 2 and 1 taps, one of 2 and 3 has a phase of none; a kernel of 4 fills all."""
    x = random(1, 3, 6, 5)
    calls = {((3, 3), (2, 2)): 4, ((4, 4), (2, 2)): 1, ((3, 2), (2, 3)): 1, ((1, 2), (1, 3)): 3}
    layers = {sizes: nn.ConvTranspose2d(3, 2, *sizes) for sizes in calls}
    assert {sizes: kernels_called(emitted(layer, x), "dense_matmul") for sizes, layer in layers.items()} == calls
    for [(got, expected)] in compare({str(sizes): (layer, (x,)) for sizes, layer in layers.items()}).values():
        assert_close(got, expected)


def test_planes_are_copied_once_for_all_that_read_them() -> None:
    """As the strided 1×1 convolutions at the beginning of a stage."""
    strided = [nn.Conv2d(8, 8, 1, 2) for _ in range(2)]
    found = emitted(lambda x: (strided[0](x), strided[1](x)), random(1, 8, 16, 16))
    assert kernels_called(found, "plane_copy") == 1


def test_between_convolutions_planes_stay_where_they_are() -> None:
    """Where pixels fill no cache lines: one copy into planes and one out of them; pooling and depthwise kernels read them as they are."""
    pointwise = [nn.Conv2d(8, 8, 1) for _ in range(3)]
    assert kernels_called(emitted(nn.Sequential(*pointwise), random(1, 8, 9, 9)), "plane_copy") == 2
    wide, depthwise = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
    for reader in (nn.MaxPool2d(3, 2), depthwise):
        assert kernels_called(emitted(nn.Sequential(wide, reader), random(1, 8, 9, 9)), "plane_copy") == 1
    assert kernels_called(emitted(lambda x: pointwise[0](x) + pointwise[1](x), random(1, 8, 9, 9)), "plane_copy") == 2


def test_pixels_that_fill_cache_lines_are_read_where_they_lie() -> None:
    assert kernels_called(emitted(nn.Conv2d(8, 8, 1), random(1, 8, 8, 8)), "plane_copy") == 0
