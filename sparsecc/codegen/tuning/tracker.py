"""TVM's RPC tracker, which knows the servers of a fleet by key: what clients and servers say to it, and to each other before a session.

The protocol is TVM's (`tvm.rpc.tracker`, `tvm.rpc.server`): after a magic number, lengths and JSON.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from sparsecc.codegen import tvm_api
from sparsecc.errors import UserError

_PATIENCE_S = 5.0  # for an answer that needs no server
_LOOK_S = 0.2
_LONGEST_KEY = 1 << 12
_UNWANTED = "-unwanted"  # after a grant's key, where TVM's clients put options


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Grant:
    """A server that is ours to connect to. match: a key for one session."""

    address: Address
    match: str


def address(text: str) -> Address:
    """HOST:PORT. Raises UserError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"tracker {text!r}: expected HOST:PORT, as 10.0.0.1:9190")
    return Address(host.strip("[]"), int(port))


class Tracker:
    """A connection to it. Raises UserError when there is none, or the other side is no tracker; later OSError when it breaks, when an
    answer takes longer than five seconds, and when it is none that a tracker gives."""

    def __init__(self, where: Address) -> None:
        self.address = where
        base = tvm_api.rpc_base
        try:
            self._socket = socket.create_connection(where, _PATIENCE_S)
        except OSError as error:
            raise UserError(f"tracker {where}: cannot be reached ({error.strerror or error}); start one: {START}") from None
        try:
            self._socket.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            [magic] = struct.unpack("<i", base.recvall(self._socket, 4))
        except TimeoutError:
            self.close()
            raise UserError(f"tracker {where}: says nothing for {_PATIENCE_S:g} s") from None
        except OSError:
            magic = None
        if magic != base.RPC_TRACKER_MAGIC:
            self.close()
            raise UserError(f"tracker {where}: what answers there is no tracker of TVM's")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def announce(self, key: str, port: int, host: str | None) -> None:
        """Say which server this is, for the tracker's summary."""
        self._ask([tvm_api.rpc_base.TrackerCode.UPDATE_INFO, {"key": f"server:{key}", "addr": (host, port)}])

    def offer(self, key: str, port: int, host: str | None) -> str:
        """Put a server at the disposal of one client; what that has to show. host: None for the one that the tracker sees."""
        match = tvm_api.rpc_base.random_key(key)
        self._ask([tvm_api.rpc_base.TrackerCode.PUT, key, (port, match), host])
        return match

    def pending(self, match: str) -> bool:
        """Whether the offer still waits for a client."""
        return match in self._ask([tvm_api.rpc_base.TrackerCode.GET_PENDING_MATCHKEYS])

    def request(self, key: str, stopped: Callable[[], bool]) -> Grant | None:
        """Wait until a server is free. None when `stopped` first."""
        base = tvm_api.rpc_base
        base.sendjson(self._socket, [base.TrackerCode.REQUEST, key, "", 1])
        while not stopped():
            if select.select([self._socket], [], [], _LOOK_S)[0]:
                match self._answer():
                    case [base.TrackerCode.SUCCESS, [str(host), int(port), str(word)]]:
                        return Grant(Address(host, port), word)
                    case answer:
                        raise OSError(f"tracker {self.address} refuses: {answer}")
        return None

    def _ask(self, message: list[Any]) -> Any:
        tvm_api.rpc_base.sendjson(self._socket, message)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return tvm_api.rpc_base.recvjson(self._socket)
        except ValueError as error:
            raise OSError(f"tracker {self.address} does not speak JSON") from error


START = "python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port 9190 (with tornado, which sparsecc[tune] brings)"


class Client(NamedTuple):
    socket: socket.socket
    host: str


class HandedBack(Exception):
    """The client does not want the server that it was granted."""


def hand_back(grant: Grant) -> None:
    """Free the server for others; it would wait for a while."""
    base = tvm_api.rpc_base
    word = f"client:{grant.match} {_UNWANTED}".encode()
    with suppress(OSError), socket.create_connection(grant.address, _PATIENCE_S) as server:
        server.sendall(struct.pack("<ii", base.RPC_MAGIC, len(word)) + word)
        base.recvall(server, 4)


def accept(listening: socket.socket, match: str, key: str) -> Client | None:
    """Take a client's connection. None for one that has no grant, or says nothing. Raises HandedBack."""
    base = tvm_api.rpc_base
    client, peer = listening.accept()
    client.settimeout(_PATIENCE_S)
    with suppress(OSError, ValueError):
        magic, length = struct.unpack("<ii", base.recvall(client, 8))
        if magic == base.RPC_MAGIC and 0 < length < _LONGEST_KEY:
            said = base.recvall(client, length).decode().split()
            if said[:1] == [f"client:{match}"]:
                if _UNWANTED in said[1:]:
                    client.sendall(struct.pack("<i", base.RPC_CODE_SUCCESS))
                    client.close()
                    raise HandedBack
                mine = f"server:{key}".encode()
                client.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(mine)) + mine)
                _keep_alive(client)
                client.settimeout(None)
                return Client(client, peer[0])
            client.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
    client.close()
    return None


def _keep_alive(client: socket.socket) -> None:
    """Notice within a minute that the other machine has gone without a word, also while it owes us an acknowledgement."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        client.setsockopt(socket.IPPROTO_TCP, option, value)
