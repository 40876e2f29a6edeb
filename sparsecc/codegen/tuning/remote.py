"""One server of a fleet as a client sees it: a thread that connects, and asks for one measurement after the other.

TVM's calls wait without a limit and cannot be interrupted. So they are made here, and whoever waits for what comes of them
(`fleet.Fleet`) has limits of its own, and leaves a thread behind that waits for ever.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from sparsecc.codegen import tvm_api
from sparsecc.codegen.target import Target
from sparsecc.codegen.tuning.measure import Reply
from sparsecc.codegen.tuning.measurer import Job
from sparsecc.codegen.tuning.session import GREET, KEEP, MEASURE, Answer, Hello, Welcome
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.codegen.tuning.tracker import Address, Grant


@dataclass(frozen=True)
class Came:
    server: Remote


@dataclass(frozen=True)
class Refused:
    server: Remote
    reason: str


@dataclass(frozen=True)
class Done:
    server: Remote
    job: Job
    reply: Reply


@dataclass(frozen=True)
class Lost:
    """trouble: whether the server is there, and cannot measure."""

    server: Remote
    reason: str
    trouble: bool = False


Event = Came | Refused | Done | Lost


class Remote:
    """tell: called in the thread with what happens."""

    def __init__(self, grant: Grant, target: Target, hello: Hello, tell: Callable[[Event], None]) -> None:
        self.address: Address = grant.address
        self.name = str(grant.address)
        self._match, self._target, self._hello, self._tell = grant.match, target, hello, tell
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._kept: set[str] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"sparsecc {self.name}")
        self._thread.start()

    def measure(self, job: Job) -> None:
        """Comes back as `Done` or `Lost`."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the session after what is under way."""
        self._jobs.put(None)

    def wait(self, seconds: float) -> None:
        """For the session's end, no longer."""
        self._thread.join(seconds)

    def _run(self) -> None:
        session, functions = None, []
        try:
            session = tvm_api.get_global_func("rpc.Connect")(self.address.host, self.address.port, self._match, False)
            for name in (GREET, KEEP, MEASURE):
                functions.append(session.get_function(name))
            self._talk(*functions)
        except Exception as error:  # noqa: BLE001  # TVM has no type of its own for what breaks on the way
            self._tell(Lost(self, _words(error)))
        finally:
            # `functions` live until here: to free one of an open session asks the server, and stops every thread until that answers.
            if session is not None:
                with suppress(Exception):  # it is broken
                    session.get_function("CloseRPCConnection")()

    def _talk(self, greet: Callable[[str], str], keep: Callable[[str, bytes], None], measure: Callable[[str], str]) -> None:
        welcome = parse(Welcome, greet(text(self._hello)))
        self.name = f"{welcome.name} ({self.address})"
        if welcome.refusal is not None:
            self._tell(Refused(self, welcome.refusal))
            return
        self._tell(Came(self))
        while (job := self._jobs.get()) is not None:
            request = job.request(self._target, self._hello.limit_s)
            if job.matrix is not None:
                request = replace(request, matrix=self._sent(job.matrix, keep))
            answer = parse(Answer, measure(text(request)))
            if answer.reply is None:
                self._tell(Lost(self, answer.trouble or "", trouble=True))
                return
            self._tell(Done(self, job, answer.reply))

    def _sent(self, matrix: Path, keep: Callable[[str, bytes], None]) -> str:
        """The name under which the server has it."""
        data = matrix.read_bytes()
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        if name not in self._kept:
            keep(name, data)
            self._kept.add(name)
        return name


def _words(error: Exception) -> str:
    said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if said.endswith("RPC call:"):  # which TVM says without words where the server's function was broken off
        return "it was ended"
    return "the connection broke" if "kShutdown" in said or "Socket" in said else said[:200]
