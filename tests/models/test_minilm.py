from __future__ import annotations

from typing import Any

import pytest
import torch

from models import minilm


@pytest.mark.parametrize("name", ["minilm"])
def test_real_weights_place_meanings_near_each_other(name: str, built: Any) -> None:
    texts = ["A dog runs over the grass.", "A puppy is running through a meadow.", "The interest rate was raised by the bank."]
    ids, mask = minilm.tokenize(texts)
    with torch.no_grad():
        vectors = minilm.embed(built(ids, mask)[0], mask)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.6
    assert similarity[0, 2] < 0.2


def test_embed_ignores_padding() -> None:
    hidden = torch.randn(1, 4, 8)
    padded = torch.cat([hidden, torch.full((1, 3, 8), 99.0)], dim=1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    torch.testing.assert_close(minilm.embed(padded, mask), minilm.embed(hidden, mask[:, :4]))


def test_tokenize_pads_and_cuts_to_the_length_asked() -> None:
    ids, mask = minilm.tokenize(["one two three", "word " * 100], tokens=16)
    assert ids.shape == mask.shape == (2, 16)
    assert mask.sum(1).tolist() == [5, 16]


def test_held_out_sentences_are_not_in_the_calibration() -> None:
    assert not set(minilm.held_out(100)) & set(minilm.sentences(1000))
