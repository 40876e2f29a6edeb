from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sparsecc.autotune.metrics.base import HeldOut
from sparsecc.autotune.metrics.perplexity import Perplexity
from sparsecc.errors import InputError
from tests.autotune.metrics.outputs import measured

GENERATOR = np.random.default_rng(3)
LOGITS = GENERATOR.normal(0, 2, (3, 5, 11)).astype(np.float32)
OTHER = GENERATOR.normal(0, 2, (3, 5, 11)).astype(np.float32)
IDS = GENERATOR.integers(0, 11, (3, 5))
IDS[0, 1] = 10
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]])


def expected(logits: np.ndarray, wanted: np.ndarray) -> float:
    found = cross_entropy(torch.from_numpy(logits).double().flatten(0, 1), torch.from_numpy(wanted).flatten(), ignore_index=-1)
    return float(found.exp())


def test_the_next_token_of_the_input() -> None:
    value = measured(Perplexity(), LOGITS, OTHER, HeldOut({"ids": IDS, "attention_mask": np.ones_like(IDS)}))
    assert value.value == pytest.approx(expected(OTHER[:, :-1].copy(), IDS[:, 1:].copy()))
    assert value.dense == pytest.approx(expected(LOGITS[:, :-1].copy(), IDS[:, 1:].copy()))
    assert value.dense is not None and value.ratio == pytest.approx(value.value / value.dense)


def test_padding_neither_expects_nor_is_expected() -> None:
    sample = HeldOut({"input_ids": IDS, "attention_mask": MASK, "token_type_ids": IDS * 0, "position_ids": IDS * 0 + np.arange(5)})
    both = (MASK[:, 1:] == 1) & (MASK[:, :-1] == 1)
    wanted = np.where(both, IDS[:, 1:], -1)
    assert measured(Perplexity(), LOGITS, OTHER, sample).value == pytest.approx(expected(OTHER[:, :-1].copy(), wanted))


def test_tokens_of_a_reference() -> None:
    wanted = np.where(GENERATOR.random((3, 5)) < 0.3, -100, IDS)
    sample = HeldOut({"x": np.zeros((3, 1), np.float32)}, {"tokens": wanted})
    assert measured(Perplexity(), LOGITS, OTHER, sample).value == pytest.approx(expected(OTHER, np.maximum(wanted, -1)))


def test_large_logits_and_those_that_are_no_numbers() -> None:
    sample = HeldOut({"ids": IDS})
    assert measured(Perplexity(), LOGITS, 1e4 * OTHER, sample).value > 1e100
    assert measured(Perplexity(), LOGITS, 1e8 * OTHER, sample).value == np.inf
    broken = OTHER.copy()
    broken[1, 2, 3] = np.nan
    value = measured(Perplexity(), LOGITS, broken, sample)
    assert value.value == np.inf and value.spread is None
    masked = np.where(np.arange(11) == 10, -np.inf, OTHER)
    assert np.isfinite(measured(Perplexity(), LOGITS, masked, HeldOut({"ids": IDS % 10})).value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"x": np.zeros((3, 2), np.float32)},
            r"no input holds integers \[3, 5\], the tokens; add an array 'reference:tokens' to the samples",
        ),
        ({"a": IDS, "b": IDS}, "a, b could all be the tokens; add an array 'reference:tokens'"),
        ({"ids": IDS + 7}, "token 17 is none of the 11 that the model has logits for"),
    ],
)
def test_what_is_missing(inputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Perplexity().read([LOGITS], HeldOut(inputs))


def test_outputs_and_references_of_other_shapes() -> None:
    with pytest.raises(InputError, match=r"has the shape \[3, 5\], not \[batch, tokens, vocabulary\]"):
        Perplexity().read([LOGITS[..., 0]], HeldOut({"ids": IDS}))
    with pytest.raises(InputError, match=r"the reference 'tokens' is float64\[3, 5\], not integers \[3, 5\]"):
        Perplexity().read([LOGITS], HeldOut({"ids": IDS}, {"tokens": IDS * 1.0}))


def test_no_token_to_expect() -> None:
    found = Perplexity().read([LOGITS[:, :1]], HeldOut({"ids": IDS[:, :1]}))
    refused = Perplexity().refuse(found)
    assert refused is not None and "no token to expect" in refused.reason
