"""What a client and a server of a fleet say to each other: text through functions that the server registers with TVM."""

from __future__ import annotations

import platform
import re
import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from sparsecc.codegen.backend import TunableBackend, named, recorded
from sparsecc.codegen.kernel import kernels
from sparsecc.codegen.target import Target
from sparsecc.codegen.tuning.measure import Reply, Request
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.codegen.tuning.worker import Worker
from sparsecc.errors import SparseccError

GREET, KEEP, MEASURE = "sparsecc.fleet.greet", "sparsecc.fleet.keep", "sparsecc.fleet.measure"
_NAME = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class Hello:
    """What a client wants measured. target: as `text` has it.  kernels: the digest of each one's code."""

    backend: str
    target: str
    tvm: str
    kernels: dict[str, str]
    limit_s: float

    @classmethod
    def of(cls, target: Target, limit_s: float) -> Hello:
        version = recorded(target).version
        digests = {name: version(name) for name in sorted(kernels(target.backend))}
        return cls(target.backend, text(target), metadata.version("apache-tvm"), digests, limit_s)


@dataclass(frozen=True)
class Welcome:
    """name: of the server's machine.  refusal: why what it would measure holds nothing for the target."""

    name: str
    refusal: str | None = None


@dataclass(frozen=True)
class Answer:
    """reply: None where this says nothing about the candidate, and `trouble` says what is wrong with the server."""

    reply: Reply | None
    trouble: str | None = None


class Session:
    """The server's side of one client. folder: for weights.  threads: that the client may use."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        self._worker: Worker | None = None
        self._idle_since: float | None = time.monotonic()

    @property
    def idle_s(self) -> float:
        """For how long the client has asked for nothing."""
        since = self._idle_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()

    def greet(self, said: str) -> str:
        hello = parse(Hello, said)
        refusal = self._refusal(hello)
        if refusal is None:
            self._worker = Worker(self._target(hello), limit_s=hello.limit_s)
        return text(Welcome(platform.node(), refusal))

    def keep(self, name: str, data: bytes) -> None:
        """A weight, as .npy, for the `matrix` of requests."""
        with self._path(name).open("wb") as file:
            file.write(data)

    def measure(self, said: str) -> str:
        """The request's `matrix` is the name of what was kept."""
        assert self._worker is not None
        request = parse(Request, said)
        path = str(self._path(request.matrix)) if request.matrix else None
        self._idle_since = None
        try:
            return text(Answer(self._worker.ask(replace(request, matrix=path))))
        except SparseccError as error:
            return text(Answer(None, str(error)))
        finally:
            self._idle_since = time.monotonic()

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a weight")
        return self._folder / f"{name}.npy"

    @staticmethod
    def _target(hello: Hello) -> Target:
        backend = named(hello.backend)
        assert isinstance(backend, TunableBackend)
        return parse(backend.target, hello.target)

    def _refusal(self, hello: Hello) -> str | None:
        target = self._target(hello)
        mine = Hello.of(target, hello.limit_s)
        if hello.tvm != mine.tvm:
            return f"has TVM {mine.tvm}, not {hello.tvm}"
        if others := sorted(name for name, digest in hello.kernels.items() if mine.kernels.get(name) != digest):
            return f"has another version of sparsecc, whose {others[0]} differs; install the same one there"
        if reason := target.cannot_run:
            return f"cannot run the code: {reason}"
        if not target.is_here:
            return f"is no {target.name}, so that times measured there do not hold for it"
        if target.threads > self._threads:
            return f"lends {self._threads} threads, {target.threads} are to be measured"
        return None
