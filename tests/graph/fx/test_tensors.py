"""Tensors of a module by dotted name."""

from __future__ import annotations

import torch
from torch import nn

from sparsecc.graph.fx.tensors import assign, free_name, free_prefix


def test_assign_makes_modules_and_keeps_order() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    assign(module, "0.weight", torch.zeros(3, 3), trainable=True)
    assign(module, "new.sub.index", torch.zeros(3, dtype=torch.int64), trainable=True)
    assert [name for name, _ in module.named_parameters()] == ["0.weight", "0.bias"]
    assert [name for name, _ in module.named_buffers()] == ["new.sub.index"]


def test_what_was_learnt_stays_a_parameter_when_it_is_frozen() -> None:
    module = nn.Linear(2, 2)
    assign(module, "weight", torch.zeros(2, 2), trainable=False)
    assign(module, "other", torch.zeros(2, 2), trainable=False, learnt=True)
    assign(module, "mel", torch.zeros(2, 2), trainable=False)
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias", "other"]
    assert not module.weight.requires_grad
    assert [name for name, _ in module.named_buffers()] == ["mel"]


def test_free_names() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    assert free_name(module, "0.scale") == "0.scale"
    assert free_name(module, "0.weight") == "0.weight_1"
    assert free_prefix(module, "0", ("weight", "index")) == "0_1"
    assert free_prefix(module, "0.weight", ("values",)) == "0.weight_1", "a tensor stands where a module would have to"


def test_a_tensor_on_the_way_to_a_name_is_passed_by() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    assert free_name(module, "0.weight.bias") == "0.weight_1.bias"
    assert free_name(module, "0.weight.deeper.bias") == "0.weight_1.deeper.bias"
    assert free_prefix(module, "0.weight.op", ("values",)) == "0.weight_1.op"
