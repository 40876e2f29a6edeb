"""A tracker of TVM's and servers of ours as processes on this machine."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sparsecc.codegen.tuning.tracker import Address
from tests import ROOT

TRACKER = """
import sys
sys.modules["torch"] = None  # tvm_ffi imports it when it is there, which takes seconds
from tvm.rpc.tracker import PopenTrackerServerState
state = PopenTrackerServerState("127.0.0.1", int(sys.argv[1]), int(sys.argv[1]) + 1, silent=True)
print(state.port, flush=True)
state.thread.join()
"""
SERVER = """
import sys
from functools import partial
from sparsecc.codegen.tuning import session
from sparsecc.codegen.tuning.serving import Server
from sparsecc.codegen.tuning.tracker import address
from sparsecc.codegen.tuning.worker import Worker
command = [sys.executable, "-m", "tests.codegen.tuning.misbehaving"]
session.Worker = partial(Worker, command=command)
Server(address(sys.argv[1]), sys.argv[2], int(sys.argv[3]), None, partial(print, flush=True)).run()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def tracker() -> Iterator[Address]:
    port = free_port()
    with _process([sys.executable, "-c", TRACKER, str(port)]) as process:
        assert _line(process) == f"{port}\n", "the tracker does not start; it needs tornado: make setup"
        yield Address("127.0.0.1", port)


@contextmanager
def servers(where: Address, key: str, count: int, threads: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """They know one kernel more: `misbehaving`."""
    command = [sys.executable, "-c", SERVER, str(where), key, str(threads)]
    with _process(command) as first:
        if count > 1:
            with servers(where, key, count - 1, threads) as others:
                _ready(first)
                yield [first, *others]
        else:
            _ready(first)
            yield [first]


def _ready(process: subprocess.Popen[str]) -> None:
    assert _line(process).startswith("ready at port")


def _line(process: subprocess.Popen[str], seconds: float = 60.0) -> str:
    """The first one that it says."""
    out = process.stdout
    assert out is not None
    assert soon(lambda: bool(select.select([out], [], [], 0.2)[0]), seconds), f"{process.args} says nothing for {seconds:g} s"
    return out.readline()


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """With everything that it has started, ended at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True, env=environment)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def soon(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()
