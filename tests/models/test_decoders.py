"""Decoders with a cache of fixed size: a step at a time gives what the whole text gives at once."""

from __future__ import annotations

import torch

from models import gpt_small
from models._text import encode
from models.decoders import gpt_small as gpt_decode
from models.decoders import llama as llama_decode


def test_the_small_gpt_a_character_at_a_time() -> None:
    ids = encode("The value of the expression is")[None]
    step = gpt_decode.build(torch.float32)
    with torch.no_grad():
        whole = gpt_small.build()(ids)
        single = torch.cat([step(ids[:, i : i + 1], torch.tensor([i])) for i in range(ids.shape[1])], 1)
    assert torch.allclose(whole, single, atol=1e-4)


def test_it_writes_words() -> None:
    with torch.no_grad():
        text = gpt_decode.generate(gpt_decode.build(torch.float32), "A function is", 40)
    assert text.startswith("A function is") and len(text) == 53
    assert "the " in text


def test_a_llama_a_token_at_a_time() -> None:
    whole, single = (llama_decode.build("tiny", dtype=torch.float32) for _ in range(2))
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        expected = whole(ids, torch.arange(5))
        found = torch.cat([single(ids[:, i : i + 1], torch.tensor([i])) for i in range(5)], 1)
    assert torch.allclose(expected, found, atol=1e-4)
