"""TVMScript's `T`, loaded when a kernel is generated: whoever only lays weights out or launches what is built needs no TVM."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any


class _Script:
    def __getattr__(self, name: str) -> Any:
        if name == "inline" and "tvm" not in sys.modules:
            return _inline_later
        from sparsecc.codegen import tvm_api

        return getattr(tvm_api.T, name)


def _inline_later(function: Callable[..., Any]) -> Callable[..., Any]:
    """A piece at the top of a file, which TVM reads when a kernel first has it."""
    made: list[Any] = []

    @functools.wraps(function)
    def inline(*arguments: Any, **named: Any) -> Any:
        if not made:
            made.append(T.inline(function))
        return made[0](*arguments, **named)

    return inline


T: Any = _Script()
