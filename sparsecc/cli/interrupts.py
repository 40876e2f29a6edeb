"""Ctrl-C and requests to end, noticed even where they are swallowed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What is done about each, unless somebody has chosen otherwise. SIGTERM and SIGHUP would leave temporary files behind.
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}


@contextmanager
def noting_interrupts() -> Iterator[list[int]]:
    """A list that holds the signal's number once the user has pressed Ctrl-C, or the system has asked to end.

    The KeyboardInterrupt alone does not say so: where TVM calls back into Python it becomes a RuntimeError without words, which may end as
    an error about the model, and typer turns it into an exit code.
    """
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    # in the background, as by nohup, some are ignored
    mine = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) is default]
    if threading.current_thread() is not threading.main_thread():
        mine = []
    for number in mine:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        for number in mine:
            signal.signal(number, _DEFAULTS[number])
