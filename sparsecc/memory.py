"""Giving memory back to the system while a model is compiled."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


def trim() -> None:
    """Return the pages of freed memory: glibc keeps those that lie below something in use, here as many as the model has."""
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    return found or (lambda pad: 0)  # other allocators need no such call
