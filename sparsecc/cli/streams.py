"""Standard streams that can be written to, whatever the caller has made of them: closed, full, or for a terminal of ASCII."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

_PLAIN = {"×": "x", "µ": "u", "→": "->", "−": "-", "…": "...", "≥": ">=", "≤": "<=", "·": "*", "²": "^2"}
_ERRORS = "sparsecc"


def prepare() -> None:
    """Before anything is opened or written.

    Where a standard descriptor is closed, the next file to be opened has its number: then what TVM logs would be written into the model.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor, mode)
    sys.stdout = sys.stdout or _opened(1)
    sys.stderr = sys.stderr or _opened(2)
    codecs.register_error(_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def say(message: str) -> None:
    """One line on stderr; nobody is told when that cannot be written to."""
    try:
        print(message, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # ValueError: a closed file
        silence(2)


def flush() -> str | None:
    """Why what was printed did not reach stdout. None when it did, or when whoever read it has left."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(1)
    except (OSError, ValueError) as error:
        silence(1)
        return f"stdout: cannot be written: {getattr(error, 'strerror', None) or error}"
    return None


def silence(descriptor: int) -> None:
    """Let Python write what it has left for a stream to nowhere: failing once more, as it ends, would change the exit code."""
    with suppress(OSError):
        _to_nowhere(descriptor, os.O_WRONLY)


def _to_nowhere(descriptor: int, mode: int) -> None:
    nowhere = os.open(os.devnull, mode)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    os.set_inheritable(descriptor, True)


def _opened(descriptor: int) -> TextIO:
    return io.TextIOWrapper(io.FileIO(descriptor, "w", closefd=False), encoding="utf-8", line_buffering=True)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Characters that a terminal has not, in those that it has."""
    assert isinstance(error, UnicodeEncodeError)
    characters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one, one.encode("ascii", "backslashreplace").decode()) for one in characters), error.end
