"""How well a language model expects the tokens that come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.autotune.metrics.base import MASK, HeldOut, Metric, Outputs, floats
from sparsecc.errors import InputError, Refused

TOKENS = "tokens"  # the reference
_OTHERS = (MASK, "token_type_ids", "position_ids")  # integers by token that are no tokens


class Perplexity(Metric[np.ndarray]):
    """exp of the mean negative log-likelihood of a token, by the first output of floats: logits [batch, tokens, vocabulary].

    Position t is to expect entry t of the reference `tokens`, int[batch, tokens], entries below 0 left out. Without that reference it is
    to expect token t + 1 of the input, the one input of integers [batch, tokens] besides attention_mask, token_type_ids and position_ids.
    Tokens that an `attention_mask` leaves out do not count.
    """

    better = "lower"
    of_one_model = True

    def read(self, outputs: Outputs, sample: HeldOut) -> Sequence[np.ndarray]:
        logits = floats(outputs)
        if logits.ndim != 3:
            raise InputError(f"the first output of floats has the shape {list(logits.shape)}, not [batch, tokens, vocabulary]")
        wanted = _wanted(sample, logits.shape)
        return [
            np.array([_surprise(item[known], tokens[known]), known.sum()])
            for item, tokens in zip(logits, wanted, strict=True)
            for known in [tokens >= 0]
        ]

    def compare(self, dense: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
        """[items, 2]: Σ −log p, tokens."""
        return np.stack(other)

    def value(self, rows: np.ndarray) -> float:
        surprise, tokens = rows.sum(0)
        with np.errstate(over="ignore"):
            return float(np.exp(surprise / tokens)) if tokens else np.nan

    def refuse(self, dense: Sequence[np.ndarray]) -> Refused | None:
        if any(tokens for _, tokens in dense):
            return None
        return Refused("there is no token to expect: every sample has one token alone, or all are left out")


def _surprise(logits: np.ndarray, tokens: np.ndarray) -> float:
    """Σ −log softmax(logits)[token], infinite where a logit is NaN. logits: [tokens, vocabulary]."""
    values = logits.astype(np.float64)
    largest = values.max(-1, initial=-np.inf)
    if not np.isfinite(largest).all():
        return np.inf
    total = np.log(np.exp(values - largest[:, None]).sum(-1)) + largest
    return float((total - np.take_along_axis(values, tokens[:, None], -1)[:, 0]).sum())


def _wanted(sample: HeldOut, shape: Sequence[int]) -> np.ndarray:
    """int64[batch, tokens]: what each position is to expect, -1 for nothing. shape: of the logits."""
    batch, positions, vocabulary = shape
    mask = sample.mask((batch, positions))
    if TOKENS in sample.references:
        found = sample.references[TOKENS]
        if found.shape != (batch, positions) or found.dtype.kind not in "iu":
            raise InputError(f"the reference {TOKENS!r} is {found.dtype}{list(found.shape)}, not integers [{batch}, {positions}]")
        wanted = np.where(mask, found, -1) if mask is not None else found
    else:
        tokens = _input(sample, (batch, positions))
        wanted = np.full((batch, positions), -1)
        wanted[:, :-1] = tokens[:, 1:] if mask is None else np.where(mask[:, 1:] & mask[:, :-1], tokens[:, 1:], -1)
    if wanted.max(initial=-1) >= vocabulary:
        raise InputError(f"token {wanted.max()} is none of the {vocabulary} that the model has logits for")
    return wanted.astype(np.int64)


def _input(sample: HeldOut, shape: tuple[int, int]) -> np.ndarray:
    found = {
        name: array for name, array in sample.inputs.items() if array.dtype.kind in "iu" and array.shape == shape and name not in _OTHERS
    }
    if len(found) != 1:
        why = f"{', '.join(found)} could all be the tokens" if found else f"no input holds integers [{shape[0]}, {shape[1]}], the tokens"
        sample.reference(TOKENS, why)
    return next(iter(found.values()))
