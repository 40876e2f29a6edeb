"""Every precision, dense and in each kind of format."""

from __future__ import annotations

import pytest
import torch

from sparsecc import formats, precisions
from sparsecc.precisions.base import Quantized
from tests.laws.members import PRECISIONS

ROWS, COLS = 8, 16
KEYS = [precision.key for precision in PRECISIONS]
FORMATS = [None, "block:1x4", "csr", "nm:2:4"]
every_scheme = pytest.mark.parametrize(("key", "format"), [(key, format) for key in KEYS for format in FORMATS])


def stored(key: str, format: str | None = None) -> Quantized:
    weight = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0))
    if format is None:
        return precisions.from_key(key).quantize(weight, 3.0)
    found = formats.from_key(format)
    keep = found.pattern.project(weight.abs(), 0.5)
    return precisions.from_key(key).quantize(weight * keep, 3.0).packed(found, keep)
