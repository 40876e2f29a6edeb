"""Commands under `torchrun`: rank 0 prints and writes, the others work in silence and end as it does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sparsecc.cli import streams
from sparsecc.errors import UserError
from sparsecc.ranks.world import spread

SHARED = ("convert", "compile", "sensitivity", "explain")  # commands that calibrate, and have something to divide
_RANK, _SIZE, _JOB = "RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"


def leads() -> bool:
    """Whether this process may print and write."""
    return not _in_job() or os.environ[_RANK] == "0"


@contextmanager
def shared(arguments: Sequence[str], commands: Sequence[str]) -> Iterator[None]:
    """For a command that is started by torchrun in several processes. commands: all that there are. An error of one is raised in all.

    Raises UserError for a command that has nothing to divide."""
    command = next((argument for argument in arguments if argument in commands), None)
    if not _in_job() or command is None:
        yield
        return
    if command not in SHARED:
        raise UserError(f"{command}: runs in one process, not under torchrun, which {', '.join(SHARED)} do")
    with spread():
        yield


def quiet() -> None:
    """Before anything is printed: of several processes one is heard."""
    if not leads():
        for descriptor in (1, 2):
            streams.silence(descriptor)


def _in_job() -> bool:
    return _JOB in os.environ and os.environ.get(_SIZE, "1") != "1"
