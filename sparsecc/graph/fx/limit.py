"""A limit on how long a stretch of Python may run: tracing with free sizes can keep sympy busy for hours in a single operator."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Iterator

_TICK = 0.25  # seconds between looks at the clock; also how long an exception has to get out before it is raised once more


class TookTooLong(BaseException):
    """No Exception, so that no handler on the way takes it for a failure of its own."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TookTooLong in this thread, at any line within the block, once it has computed for so many seconds there.

    Seconds are of the thread's own computing, so that a busy machine changes nothing. A call into C is not interrupted before it returns.
    """
    thread, clock, over, raised = threading.get_ident(), _clock(), threading.Event(), threading.Event()
    end = clock() + seconds

    def watch() -> None:
        while not over.wait(_TICK):
            if clock() > end:
                raised.set()
                _raise(thread, TookTooLong)  # again and again: a destructor that it hits swallows it

    watcher = threading.Thread(target=watch, name="sparsecc-time-limit", daemon=True)
    watcher.start()
    try:
        try:
            yield
        finally:
            over.set()
    finally:
        over.set()  # the exception may have come just before the first
        watcher.join()
        if raised.is_set():
            _swallow(thread)  # one that was on its way


def _clock() -> Callable[[], float]:
    """This thread's processor time, for any thread to read."""
    number = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(number)


def _raise(thread: int, what: type[BaseException]) -> None:
    """In a thread, at its next bytecode that looks."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(what))


def _swallow(thread: int) -> None:
    """Leaves nothing that is still to be raised in this thread. It is not taken back, which CPython offers, too: 3.11 would look for an
    exception at every bytecode from then on, and a function that is traced or profiled would never begin."""
    try:
        _raise(thread, TookTooLong)
        while True:
            pass
    except TookTooLong:
        pass
