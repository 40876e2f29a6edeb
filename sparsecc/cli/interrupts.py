"""Ctrl-C, noticed even where it is swallowed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noting_interrupts() -> Iterator[list[int]]:
    """A list that holds something once the user has pressed Ctrl-C.

    The KeyboardInterrupt alone does not say so: where TVM calls back into Python it becomes a RuntimeError without words, and typer
    turns it into an exit code.
    """
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored in the background, as by nohup
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
