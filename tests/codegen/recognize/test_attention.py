"""Attention written out becomes one call, and what only looks like it stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsecc.codegen.recognize.program import AttentionCall, shape
from tests.codegen.recognize.recognizing import calls, operators, recognized, recognized_onnx
from tests.codegen.whole import random
from tests.graph.onnx.test_attention import FEEDS, FORMS, NUMBERS, OUT
from tests.graph.onnx_models import model

Q, K, V = random(2, 3, 16, 4), random(2, 3, 16, 4, seed=1), random(2, 3, 16, 4, seed=2)
MASK = random(2, 1, 16, 16)
Function = Callable[..., Tensor | tuple[Tensor, ...]]


def only(function: Function, *inputs: Tensor) -> AttentionCall:
    program = recognized(function, *inputs)
    assert operators(program)[-1] == "attention"
    assert not {"matmul", "nn.softmax"} & {*operators(program)}
    [call] = calls(program)
    return call


SCALED: dict[str, tuple[float, Function]] = {
    "unscaled": (1, lambda q, k, v: torch.softmax(q @ k.transpose(2, 3), -1) @ v),
    "scaled after": (0.25, lambda q, k, v: torch.softmax(q @ k.transpose(2, 3) * 0.25, -1) @ v),
    "divided after": (0.25, lambda q, k, v: torch.softmax(q @ k.transpose(2, 3) / 4, -1) @ v),
    "q scaled": (0.25, lambda q, k, v: torch.softmax((0.25 * q) @ k.transpose(2, 3), 3) @ v),
    "both scaled": (0.25, lambda q, k, v: torch.softmax((q * 0.5) @ (k.transpose(2, 3) * 0.5), -1) @ v),
    "scaled three times": (0.125, lambda q, k, v: torch.softmax((q / 2) @ (k.transpose(2, 3) / 2) / 2, -1) @ v),
}


@pytest.mark.parametrize("name", SCALED)
def test_scales_multiply(name: str) -> None:
    scale, function = SCALED[name]
    call = only(function, Q, K, V)
    assert call.scale == pytest.approx(scale)
    assert (call.mask, call.causal, call.keys_transposed) == (None, False, False)


def test_mask_on_either_side_and_after_the_scale() -> None:
    for function in (
        lambda q, k, v, m: torch.softmax(q @ k.transpose(2, 3) / 4 + m, -1) @ v,
        lambda q, k, v, m: torch.softmax(m + q @ k.transpose(2, 3) / 4, -1) @ v,
    ):
        call = only(function, Q, K, V, MASK)
        assert call.scale == 0.25
        assert shape(call.mask) == (2, 1, 16, 16)


def test_keys_that_came_transposed() -> None:
    call = only(lambda q, k, v: torch.softmax(q @ k / 4, -1) @ v, Q, K.transpose(2, 3).contiguous(), V)
    assert call.keys_transposed
    assert shape(call.k) == (2, 3, 4, 16)


def test_rows_of_nan_made_zero() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        p = torch.softmax(q @ k.transpose(2, 3) / 4 + m, -1)
        return torch.where(p.isnan(), 0.0, p) @ v

    assert only(attend, Q, K, V, MASK).mask is not None


LOOK_ALIKES: dict[str, tuple[Function, int]] = {
    "softmax over queries": (lambda q, k, v: torch.softmax(q @ k.transpose(2, 3), 2) @ v, 3),
    "weights also returned": (lambda q, k, v: (lambda p: (p @ v, p))(torch.softmax(q @ k.transpose(2, 3), -1)), 3),
    "weights used twice": (lambda q, k, v: (lambda p: p @ v + p.sum(-1, keepdim=True))(torch.softmax(q @ k.transpose(2, 3), -1)), 3),
    "two masks": (lambda q, k, v, m: torch.softmax(q @ k.transpose(2, 3) + m + m.exp(), -1) @ v, 4),
    "mask scaled, too": (lambda q, k, v, m: torch.softmax((q @ k.transpose(2, 3) + m) * 0.5, -1) @ v, 4),
    "scores through another function": (lambda q, k, v: torch.softmax(torch.tanh(q @ k.transpose(2, 3)), -1) @ v, 3),
    "weights on the right": (lambda q, k, v: v.transpose(2, 3) @ torch.softmax(q @ k.transpose(2, 3), -1), 3),
    "NaN made one": (lambda q, k, v: (lambda p: torch.where(p.isnan(), 1.0, p) @ v)(torch.softmax(q @ k.transpose(2, 3), -1)), 3),
    "three axes": (lambda q, k, v: torch.softmax(q[0] @ k[0].transpose(1, 2), -1) @ v[0], 3),
    "keys of another batch": (lambda q, k, v: torch.softmax(q @ k[:1].transpose(2, 3), -1) @ v, 3),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_stay(name: str) -> None:
    function, inputs = LOOK_ALIKES[name]
    program = recognized(function, *(Q, K, V, MASK)[:inputs])
    assert calls(program) == []
    assert "nn.softmax" in operators(program)


def test_scores_that_are_returned_are_computed_beside() -> None:
    program = recognized(lambda q, k, v: (lambda s: (torch.softmax(s * 0.5, -1) @ v, s))(q @ k.transpose(2, 3) * 0.25), Q, K, V)
    assert [call.scale for call in calls(program)] == [0.125]
    assert {"matmul", "multiply"} <= {*operators(program)}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_onnx(name: str) -> None:
    shapes = {key: list(value.shape) for key, value in FEEDS.items()}
    found = recognized_onnx(model(FORMS[name], shapes, OUT, {"zero": np.zeros(1, np.float32), **NUMBERS}))
    [call] = calls(found)
    assert call.scale == pytest.approx(1 / math.sqrt(8))
    assert (call.mask is not None) == any("mask" in node.input for node in FORMS[name])
