"""How far two sets of outputs are apart, without mercy for kinds of numbers, counts and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST = 1e-3


def arrays(outputs: Any) -> list[np.ndarray]:
    """The tensors of a model's answer in order: through tuples, dicts, ModelOutputs and caches; None is left out.

    A cache is keys and values of one layer after another, as in the tuples that stand for caches which nobody can make from tensors.
    """
    if outputs is None or isinstance(outputs, bool | int | float | str):
        return []
    if isinstance(outputs, np.ndarray | np.generic):
        return [np.asarray(outputs)]
    if isinstance(outputs, Mapping):
        return [array for value in outputs.values() for array in arrays(value)]
    if isinstance(outputs, tuple | list):
        return [array for value in outputs for array in arrays(value)]
    if hasattr(outputs, "layers"):  # transformers' Cache
        return arrays([(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in outputs.layers])
    if hasattr(outputs, "detach"):
        return [_array(outputs.detach())]
    if hasattr(outputs, "__dict__"):  # distributions of diffusers' encoders, state of a recurrent model
        return arrays(list(vars(outputs).values()))
    return []


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor)


def difference(outputs: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> tuple[float, str]:
    """Largest difference over the reference's largest magnitude, of the worst output, and what is wrong where that says too little."""
    if len(outputs) != len(reference):
        return np.inf, f"{len(outputs)} outputs, {len(reference)} expected"
    worst = 0.0
    for number, (ours, theirs) in enumerate(zip(outputs, reference, strict=True)):
        if ours.shape != theirs.shape:
            return np.inf, f"output {number} has shape {ours.shape}, {theirs.shape} expected"
        if ours.dtype != theirs.dtype:
            return np.inf, f"output {number} is {ours.dtype}, {theirs.dtype} expected"
        if theirs.dtype.kind in "OSU":
            worst = max(worst, 0.0 if np.array_equal(ours, theirs) else np.inf)
        else:
            worst = max(worst, _relative(_numbers(ours), _numbers(theirs)))
    return worst, ""


def _numbers(values: np.ndarray) -> np.ndarray:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64).ravel()


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Infinities and NaN have to stand in the same places. Numbers that all are below `LEAST` are held against that: they are tails of a
    sigmoid as a rule, of which float32 keeps seven digits behind the point and no more."""
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    apart, largest = float(np.abs(ours[finite] - theirs[finite]).max()), float(np.abs(theirs[finite]).max())
    return apart / max(largest, LEAST)
