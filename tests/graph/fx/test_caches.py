"""Caches of transformers in and out of a trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, LlamaConfig, LlamaForCausalLM, StaticCache

from sparsecc.errors import InputError
from sparsecc.graph.fx import caches, trace
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.runtime.outputs import rebuild
from tests.tolerance import assert_close

CONFIG = LlamaConfig(vocab_size=50, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, num_hidden_layers=2)


def _graph(module: nn.Module, inputs: dict[str, object]) -> FxGraph:
    caches.register()
    return FxGraph.from_exported(trace.export_fixed(module.eval(), ((), inputs)))


def _keys(outputs: Any) -> Tensor:
    """Of the second layer."""
    return outputs.past_key_values.layers[1].keys


def test_a_decoder_as_it_comes_returns_its_cache_and_takes_it() -> None:
    torch.manual_seed(0)
    model, ids = LlamaForCausalLM(CONFIG).eval(), torch.randint(0, 50, (2, 6))
    graph = _graph(model, {"input_ids": ids})
    with torch.no_grad():
        first = model(input_ids=ids)
    found = rebuild(json.loads(json.dumps(graph.structure)), graph.run([ids]).outputs)
    assert isinstance(found.past_key_values, DynamicCache)
    assert_close(_keys(found), _keys(first))
    step = {"input_ids": ids[:, :1], "past_key_values": found.past_key_values}
    again = _graph(model, step)
    assert [spec.name for spec in again.inputs][:2] == ["input_ids", "past_key_values_key_cache_0"]
    states = [getattr(layer, name) for name in ("keys", "values") for layer in found.past_key_values.layers]
    with torch.no_grad():
        second = model(input_ids=ids[:, :1], past_key_values=first.past_key_values)
    assert_close(again.run([ids[:, :1], *states]).outputs[0], second.logits)


def test_a_cache_is_a_tuple_where_it_cannot_be_made() -> None:
    states = [torch.zeros(1, 2, 3, 4) for _ in range(2)]
    layers = [{"kind": "tuple", "items": [{"kind": "leaf", "index": 0}, {"kind": "leaf", "index": 1}]}]
    cache = {"kind": "cache", "class": "transformers.cache_utils.DynamicCache", "items": layers}
    assert rebuild(cache, [state.numpy() for state in states])[0][1].shape == (1, 2, 3, 4)
    assert type(rebuild({**cache, "class": "not.loaded.Cache"}, states)) is tuple
    pair = {"kind": "cache", "class": "transformers.cache_utils.EncoderDecoderCache", "items": [cache, cache]}
    assert isinstance(rebuild(pair, states), EncoderDecoderCache)


def test_a_cache_whose_states_are_not_seen_is_refused_as_an_input() -> None:
    cache = StaticCache(config=CONFIG, max_cache_len=8)
    with pytest.raises(InputError, match=r"^an example input is a StaticCache, which cannot be traced; pass a DynamicCache, or wrap"):
        FxGraph.from_module(LlamaForCausalLM(CONFIG), {"input_ids": torch.zeros(1, 2, dtype=torch.int64), "past_key_values": cache})
