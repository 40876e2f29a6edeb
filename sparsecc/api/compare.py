"""How far two sets of outputs are apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsecc.report.base import MASKED, Check, Report

_NUMBERS = "biufV"  # numpy's kinds; V is what ml_dtypes adds
_ALIKE = Check(max_abs=0.0, max_rel=0.0, cosine=1.0)
_LEAST = 1e-3  # 1e4 times what float32 leaves of sums with 1


def checked(report: Report, outputs: Iterable[Any], expected: Iterable[Any], against: str = MASKED) -> Report:
    """The report with the worst of its check and this comparison of two sets of outputs.  against: whose the expected ones are."""
    check = compare(outputs, expected, against)
    return replace(report, check=check if report.check is None else worst([check, report.check]))


def compare(outputs: Iterable[Any], expected: Iterable[Any], against: str = MASKED) -> Check:
    from sparsecc.graph.onnx.values import flat  # here, because it imports torch, which loading an artifact does without

    ours, theirs = list(flat(outputs)), list(flat(expected))
    if len(ours) != len(theirs):
        return replace(_unlike(f"there are {len(ours)} of them and not {len(theirs)}"), against=against)
    checks = [compared(a, b, f"output {number}") for number, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    return replace(worst(checks or [_ALIKE]), against=against)


def worst(checks: Sequence[Check]) -> Check:
    """Of one or more, each number at its worst; the words are those of the largest difference."""
    said = max(checks, key=lambda check: check.max_rel)
    return replace(said, max_abs=max(check.max_abs for check in checks), cosine=min(check.cosine for check in checks))


def compared(output: np.ndarray, expected: np.ndarray, name: str) -> Check:
    """Two outputs, which the reason calls by `name`.

    Infinities and NaN in the same places count as equal, elsewhere as an infinite difference, as other shapes, types and strings do.
    """
    if output.shape != expected.shape:
        return _unlike(f"{name} has shape {list(output.shape)} and not {list(expected.shape)}")
    if output.dtype != expected.dtype:
        return _unlike(f"{name} is of {output.dtype} and not {expected.dtype}")
    if output.dtype.kind == "c":
        output, expected = (np.stack([np.real(values), np.imag(values)]) for values in (output, expected))
    if output.dtype.kind not in _NUMBERS:
        return _ALIKE if bool((output == expected).all()) else _unlike(f"{name} holds other strings")
    a, b = output.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return _unlike(f"{name} holds NaN or infinity in other places; look for them in the weights")
    return _apart(a[finite], b[finite]) if finite.any() else _ALIKE


def _apart(a: np.ndarray, b: np.ndarray) -> Check:
    """Relative to the largest number, or to `_LEAST` where all are less and none has the other sign.

    Where nothing is found, all outputs of a detector are tails of sigmoids, 1e-7 and less, of which onnxruntime keeps no digit. Outputs
    that are as small without being tails have signs, and are wrong where one is.
    """
    max_abs, largest = float(np.abs(a - b).max()), float(np.abs(b).max())
    scale = largest if bool((np.sign(a) * np.sign(b) < 0).any()) else max(largest, _LEAST)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norms if norms else float(max_abs == 0)
    return Check(max_abs=max_abs, max_rel=max_abs / scale, cosine=cosine)


def _unlike(reason: str) -> Check:
    return Check(max_abs=np.inf, max_rel=np.inf, cosine=-1.0, reason=reason)
