"""The CPUs that calls of generated code share."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOOK_S = 0.1  # how often one who waits looks by itself, in case that an interrupt kept another from waking it


class Cpus:
    """A number of CPUs, each held by one call at a time: a call that uses several threads waits until as many are free.

    Workers wait for each other by spinning. With four callers of two threads each on two CPUs they spun while those that they waited for
    had no CPU: BERT-base gave 0.91 of one caller's throughput.

    Ctrl-C may raise between any two steps of Python. What is taken is therefore noted in one step, under a key that exists before, and is
    given back in one step, however far the call has come.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: dict[object, int] = {}  # by call
        self._first = threading.Lock()  # whoever holds it waits for CPUs, or has stopped the others, who wait for it
        self._freed: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the one that waits for CPUs

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """count: more than there are means all."""
        count, call = min(count, self._count), object()
        try:
            with self._first:
                while sum(list(self._held.values())) + count > self._count:
                    self._wait()
                self._held[call] = count
            yield
        finally:
            self._held.pop(call, None)
            if self._freed.empty():
                self._freed.put(None)

    def stop(self, patience_s: float) -> bool:
        """Let no call begin until `go_on`, and wait for those under way. False, and nothing to go on with, when there was no stopping them.
        Calls that take longer than `patience_s` are not waited for."""
        give_up = time.monotonic() + patience_s
        if not self._first.acquire(timeout=patience_s):
            return False
        while self._held and time.monotonic() < give_up:
            self._wait()
        return True

    def go_on(self) -> None:
        self._first.release()

    def _wait(self) -> None:
        with suppress(queue.Empty):
            self._freed.get(timeout=_LOOK_S)
