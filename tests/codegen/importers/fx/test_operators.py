from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.codegen.importers.base import Imported
from sparsecc.codegen.importers.fx.importer import import_fx
from sparsecc.errors import ModelError
from tests.codegen.whole import Case, as_module, compare, random
from tests.tolerance import assert_close

SEQUENCE = random(2, 3, 3)


def recurrent(kind: Callable[..., nn.Module], **how: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(3, 5, batch_first=True, **how)


TAKEN_APART: dict[str, Case] = {
    "lstm, both ways": (recurrent(nn.LSTM, bidirectional=True), (SEQUENCE,)),
    "gru": (recurrent(nn.GRU), (SEQUENCE,)),
    "rnn": (recurrent(nn.RNN), (SEQUENCE,)),
    "pixel shuffle": (nn.PixelShuffle(2), (random(1, 8, 3, 5),)),
    "glu": (nn.GLU(), (random(3, 8),)),
    "instance norm": (nn.InstanceNorm2d(3), (random(2, 3, 5, 4),)),
    "smooth": (nn.Sequential(nn.Softplus(), nn.Mish(), nn.Softsign()), (random(3, 5),)),
    "outer of two types, which TVM multiplies as one": (
        lambda x, y: torch.outer(x[:, 0], y[:, 0].double()).float() + torch.outer(x[:, 1], y[:, 1]),
        (random(3, 5), random(4, 5, seed=1)),
    ),
    "huber": (lambda x, y: nn.functional.huber_loss(x, y, reduction="none"), (random(3, 5), random(3, 5, seed=1))),
}


@cache
def results() -> dict[str, list[tuple[Tensor, Tensor]]]:
    return compare(TAKEN_APART)


@pytest.mark.parametrize("name", TAKEN_APART)
def test_operators_that_are_taken_apart(name: str) -> None:
    for compiled, oracle in results()[name]:
        assert_close(compiled, oracle)


def imported(module: nn.Module | Callable[..., Any], *inputs: Tensor) -> Imported:
    return import_fx(torch.export.export(as_module(module), inputs, strict=False))


class Inner(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def test_every_operator_that_is_missing_is_listed_with_its_module() -> None:
    model = nn.Sequential(nn.ReLU(), Inner(torch.linalg.det), Inner(torch.fft.fft))
    with pytest.raises(ModelError) as raised:
        imported(model, random(2, 3, 3))
    assert str(raised.value) == "the compiler has no operator for: _linalg_det.default (at 1), _fft_r2c.default (at 2)"


def test_an_operator_outside_of_any_module_is_found_by_its_node() -> None:
    with pytest.raises(ModelError, match=r"^the compiler has no operator for: _linalg_det\.default \(at _linalg_det\)$"):
        imported(torch.linalg.det, random(2, 3, 3))


def test_what_tvm_cannot_convert_names_operator_and_module() -> None:
    model = nn.Sequential(nn.ReLU(), Inner(lambda x: torch.stft(x, 4, return_complex=True).real))
    with pytest.raises(ModelError, match=r"^the compiler (cannot take|has no operator for:) \S+ \(at 1\)"):
        imported(model, random(1, 16))


@pytest.mark.parametrize("function", [torch.rand_like, torch.randn_like, torch.bernoulli])
def test_random_numbers_are_not_drawn_once_and_for_all(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match=r"^the compiler has no operator for: rand"):
        imported(lambda x: x + function(x), random(3, 4).sigmoid())


def test_anti_aliasing_is_not_left_out() -> None:
    with pytest.raises(ModelError, match=r"^the compiler has no operator for: _upsample_bilinear2d_aa"):
        imported(lambda x: nn.functional.interpolate(x, size=(3, 4), mode="bilinear", antialias=True), random(1, 2, 7, 5))


def test_sizes_that_depend_on_the_data() -> None:
    with pytest.raises(ModelError, match=r"nonzero"):
        imported(nn.Sequential(Inner(lambda x: torch.nonzero(x))), random(3, 4))


def test_a_wrong_dtype_is_an_error() -> None:
    """TVM's attention, as ours, is fp32."""
    q = random(1, 2, 4, 8).double()
    with pytest.raises(
        ModelError, match=r"^the compiler takes scaled_dot_product_attention.default \(at .*\) wrongly: it would give .*float32"
    ):
        imported(nn.functional.scaled_dot_product_attention, q, q, q)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: nn.functional.dropout(x, 0.5, training=True), r"(native_)?dropout\.default \(at 1\) drops 0\.5"),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1), r"scaled_\S+\.default \(at 1\) drops 0\.1"),
        (lambda x: nn.functional.alpha_dropout(x, 0.5, training=True), r"alpha_dropout\.default \(at 1\) drops 0\.5"),
    ],
)
def test_what_drops_at_random_is_refused(function: Callable[[Tensor], Tensor], named: str) -> None:
    with pytest.raises(ModelError, match=f"^the compiler has no random numbers, and {named} of its numbers at random: give it a rate of 0"):
        imported(nn.Sequential(nn.ReLU(), Inner(function)), random(1, 2, 3, 4))


def test_dropout_that_drops_nothing_is_taken() -> None:
    def function(x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, 0.0, training=True) + nn.functional.dropout(x, 0.5, training=False)
        return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.0)

    imported(function, random(1, 2, 3, 4))
