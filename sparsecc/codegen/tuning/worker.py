"""Measuring in another process, which may crash or hang: that is the candidate's result, and a new process takes over."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from sparsecc.codegen.target import Target
from sparsecc.codegen.tuning.measure import Reply, Request
from sparsecc.codegen.tuning.measurer import Job
from sparsecc.codegen.tuning.records import Outcome
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.errors import SparseccError

COMMAND = (sys.executable, "-m", "sparsecc.codegen.tuning.measure")
LIMIT_S = 20.0  # for building and timing one candidate
_START_S = 120.0
_SLACK_S = 30.0  # after the limit, at which the process ends itself
_LOOK_S = 0.2
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT}  # no kernel sends these


class Worker:
    """Measures candidates one at a time. The process starts with the first, and again with the first after each crash."""

    def __init__(self, target: Target, command: Sequence[str] = COMMAND, limit_s: float = LIMIT_S) -> None:
        self._target, self._command, self._limit_s = target, list(command), limit_s
        self._process: subprocess.Popen[str] | None = None
        self._said: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # closed in close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop()
        self._said.close()

    def measure(self, job: Job) -> Outcome:
        """Raises SparseccError when the process cannot start, or somebody kills it."""
        return job.outcome(self.ask(job.request(self._target, self._limit_s)))

    def ask(self, request: Request) -> Reply:
        """As `measure`, in the words of the process."""
        try:
            line = self._reply(self._process or self._start(), text(request))
        except BaseException:
            self._stop()  # after Ctrl-C nobody would read its reply
            raise
        return parse(Reply, line) if line.endswith("\n") else Reply(failure=self._died())

    def _reply(self, process: subprocess.Popen[str], request: str) -> str:
        """A whole line, or less when the process has died."""
        assert process.stdin is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        return _line(process, self._limit_s + _SLACK_S)

    def _start(self) -> subprocess.Popen[str]:
        self._said.seek(0)
        self._said.truncate()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tuner, which then ends this one
        )
        if not _line(self._process, _START_S):
            raise SparseccError(f"the process that measures does not start: {self._died()}")
        return self._process

    def _died(self) -> str:
        """How the process ended, which it has."""
        assert self._process is not None
        code = self._process.wait()
        self._stop()
        if code == -signal.SIGALRM:
            return f"took longer than {self._limit_s:g} s"
        if -code in _FROM_OUTSIDE:
            raise SparseccError(f"the process that measures was ended by {signal.Signals(-code).name}, perhaps for want of memory")
        self._said.seek(0)
        words = ([line.strip() for line in self._said if line.strip()] or ["no last words"])[-1]
        return f"crashed: {signal.Signals(-code).name if code < 0 else f'exit code {code}, {words[:200]}'}"

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):  # a request that it did not read
                stream.close()


def _line(process: subprocess.Popen[str], seconds: float) -> str:
    """What it says next, "" at the end. Wakes up now and then: Ctrl-C may reach a thread of TVM's, which interrupts nobody's reading."""
    assert process.stdout is not None
    until = time.monotonic() + seconds
    while not select.select([process.stdout], [], [], _LOOK_S)[0]:
        if time.monotonic() > until:
            raise SparseccError(f"the process that measures says nothing for {seconds:g} s")
    return process.stdout.readline()
