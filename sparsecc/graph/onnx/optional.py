"""What onnx_ir says may be missing, where the model has it: a model is read only when every value has a name, a type and its producer."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def require(value: T | None) -> T:
    assert value is not None
    return value
