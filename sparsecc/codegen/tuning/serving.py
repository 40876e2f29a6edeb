"""A server of a fleet: registers at TVM's tracker, and measures for one client after the other what that sends.

It is one process that takes TVM's RPC sessions, with the same worker process under it that measures locally. TVM's own server forks one
process for each session, which lives on when the server is killed, and would time kernels from the other side of the network.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sparsecc.codegen import tvm_api
from sparsecc.codegen.backend import parse
from sparsecc.codegen.tuning.session import GREET, KEEP, MEASURE, Hello, Session
from sparsecc.codegen.tuning.tracker import Address, Client, HandedBack, Tracker, accept
from sparsecc.errors import UserError

Notice = Callable[[str], None]
_PING_S = 1.0
_UNUSED_S = 6.0  # after which a grant that nobody has come with is worth nothing
_RETRY_S = 2.0
_IDLE_S = 600.0  # after which a client that asks for nothing is left; it notices, and may take the server again


class Server:
    """host: under which clients reach this machine; None for the address that the tracker sees.  threads: that clients may use."""

    def __init__(self, tracker: Address, key: str, threads: int, host: str | None = None, notice: Notice = print) -> None:
        self._tracker, self._key, self._threads, self._host, self._notice = tracker, key, threads, host, notice

    def run(self) -> None:
        """Until an exception, as that of Ctrl-C. Raises UserError when there is no tracker at the start; later it is waited for."""
        tracker = Tracker(self._tracker)
        Hello.of(parse("cpu", self._threads), 0.0)  # loads what it takes, before a client waits for it
        with socket.create_server(("", 0), backlog=8) as listening:
            port = listening.getsockname()[1]
            while True:
                with tracker:
                    for client in self._clients(tracker, listening, port):
                        self._serve(client)
                self._notice(f"tracker {self._tracker}: has gone; waiting for it")
                tracker = self._again()

    def _clients(self, tracker: Tracker, listening: socket.socket, port: int) -> Iterator[Client]:
        """One after the other, until the tracker goes."""
        with suppress(OSError):
            tracker.announce(self._key, port, self._host)
            self._notice(f"ready at port {port} with key {self._key}, for {self._threads} threads")
            while True:
                yield self._client(tracker, listening, port)

    def _again(self) -> Tracker:
        while True:
            time.sleep(_RETRY_S)
            try:
                return Tracker(self._tracker)
            except UserError:
                continue

    def _client(self, tracker: Tracker, listening: socket.socket, port: int) -> Client:
        """The next one with a grant of the tracker's. Raises OSError when the tracker goes."""
        match, granted_at = tracker.offer(self._key, port, self._host), None
        while True:
            if select.select([listening], [], [], _PING_S)[0]:
                try:
                    if client := accept(listening, match, self._key):
                        return client
                except HandedBack:
                    match, granted_at = tracker.offer(self._key, port, self._host), None
                continue
            if tracker.pending(match):
                granted_at = None
            elif granted_at is None:
                granted_at = time.monotonic()
            elif time.monotonic() - granted_at > _UNUSED_S:
                match, granted_at = tracker.offer(self._key, port, self._host), None

    def _serve(self, client: Client) -> None:
        """One session, in a thread, since TVM waits where Ctrl-C does not reach it."""
        self._notice(f"measuring for {client.host}")
        with TemporaryDirectory(prefix="sparsecc") as folder, client.socket:
            session = Session(Path(folder), self._threads)
            for name, function in ((GREET, session.greet), (KEEP, session.keep), (MEASURE, session.measure)):
                tvm_api.register_global_func(name, function, override=True)
            thread = threading.Thread(target=_loop, args=(os.dup(client.socket.fileno()),), daemon=True)
            thread.start()
            try:
                while thread.is_alive() and session.idle_s < _IDLE_S:
                    thread.join(_PING_S)
            finally:
                session.close()
                with suppress(OSError):  # it is closed already
                    client.socket.shutdown(socket.SHUT_RDWR)
                thread.join(_PING_S)
        self._notice(f"done for {client.host}")


def _loop(descriptor: int) -> None:
    """TVM's, which closes the connection; it may break at any time, and raises then."""
    with suppress(Exception):
        tvm_api.get_global_func("rpc.ServerLoop")(descriptor)
