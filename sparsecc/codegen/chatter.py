"""TVM logs from C++ straight to stderr, and some of what it logs as warnings are notes to its own developers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = ("Warning: Scope Saving:", "Warning: Scope Loaded:", "Warning: Fast mode segfaults when there are out-of-bounds indices")


@contextmanager
def no_chatter() -> Iterator[None]:
    """Hold back what is written to stderr, and pass it on at the end without the lines that say nothing to a user."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines(keepends=True):
                if not any(note in line for note in _CHATTER):
                    sys.stderr.write(line)
