"""TVM logs from C++ straight to stderr, and some of what it logs as warnings are notes to its own developers."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType

_CHATTER = (
    "Warning: Scope Saving:",
    "Warning: Scope Loaded:",
    "Warning: Fast mode segfaults when there are out-of-bounds indices",
    "Warning: BlockBuilder destroyed with remaining blocks!",
)
_OURS = ("sparsecc", "tvm", "tvm_ffi")  # packages whose frames hold such functions
_stderr = threading.RLock()  # of the whole process: two threads that swapped it at once would not put back the right one
_put_aside: list[int] = []  # descriptors of the real stderr, while another one has its place


@contextmanager
def no_chatter() -> Iterator[None]:
    """Hold back what is written to stderr, and pass it on at the end without the lines that say nothing to a user."""
    with _stderr, ExitStack() as opened:
        try:
            held = opened.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
        except OSError:  # there is no place to hold it back, or it is closed, so that nobody hears anything
            yield
            return
        _flush()
        _put_aside.append(stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(stderr, 2)
            _put_aside.remove(stderr)
            os.close(stderr)
            held.seek(0)
            _pass_on(held.read().decode(errors="replace"))


def _pass_on(said: str) -> None:
    for line in said.splitlines(keepends=True):
        if sys.stderr is not None and not any(note in line for note in _CHATTER):
            with suppress(OSError, ValueError):  # nobody is there to read it
                sys.stderr.write(line)


def _flush() -> None:
    if sys.stderr is not None:  # as it is where it was closed when Python began
        with suppress(OSError, ValueError):
            sys.stderr.flush()


@contextmanager
def quiet_failure() -> Iterator[None]:
    """An error that leaves the block has let go of what its frames held: half-built functions of TVM complain when they are deleted.

    Frames of others, and of errors that were being handled already, are the caller's.
    """
    handled = sys.exception()
    try:
        yield
    except BaseException as error:
        with no_chatter():
            cause: BaseException | None = error
            while cause is not None and cause is not handled:
                _clear_frames(cause.__traceback__)
                cause = cause.__cause__ or cause.__context__
            gc.collect()
        raise


def _clear_frames(trace: TracebackType | None) -> None:
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
            with suppress(RuntimeError):  # the frame is still running
                trace.tb_frame.clear()
        trace = trace.tb_next


def _in_child() -> None:
    """Give a forked child its stderr back, when it was another thread that had put it aside."""
    global _stderr
    if _stderr._is_owned():  # type: ignore[attr-defined]
        return
    _stderr = threading.RLock()
    if _put_aside:
        os.dup2(_put_aside[0], 2)
        _put_aside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
