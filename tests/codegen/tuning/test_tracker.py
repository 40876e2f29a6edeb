"""What is no tracker. The real one is in test_fleet.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from sparsecc.codegen.tuning import tracker as module
from sparsecc.codegen.tuning.tracker import Address, Grant, HandedBack, Tracker, accept, address, hand_back
from sparsecc.errors import UserError
from tests.codegen.tuning.fleets import free_port


def test_addresses() -> None:
    assert address("10.0.0.1:9190") == Address("10.0.0.1", 9190)
    assert address("[::1]:9190") == Address("::1", 9190)
    assert str(address("box:1")) == "box:1"


@pytest.mark.parametrize("text", ["box", "box:", ":9190", "box:0", "box:70000", "box:x", ""])
def test_no_addresses(text: str) -> None:
    with pytest.raises(UserError, match="expected HOST:PORT"):
        address(text)


def test_nobody_there() -> None:
    with pytest.raises(UserError, match=r"tracker 127.0.0.1:\d+: cannot be reached .*; start one: python -m tvm.exec.rpc_tracker"):
        Tracker(Address("127.0.0.1", free_port()))


def test_no_such_name() -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        Tracker(Address("no-such-host.invalid", 9190))


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n", b""])
def test_somebody_else_there(says: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            client, _ = listening.accept()
            with client:
                client.recv(4)
                client.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match="what answers there is no tracker of TVM's"):
            Tracker(Address("127.0.0.1", listening.getsockname()[1]))
        thread.join(10)


def test_somebody_silent_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(UserError, match=r"says nothing for 0.1 s"):
        Tracker(Address("127.0.0.1", listening.getsockname()[1]))


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def granted(listening: socket.socket, match: str) -> Grant:
    return Grant(Address(*listening.getsockname()), match)


def test_a_grant_is_handed_back(listening: socket.socket) -> None:
    thread = threading.Thread(target=hand_back, args=(granted(listening, "zen4:0.1"),))
    thread.start()
    with pytest.raises(HandedBack):
        accept(listening, "zen4:0.1", "zen4")
    thread.join(10)
    assert not thread.is_alive()


def test_nobody_hands_back_what_he_was_not_granted(listening: socket.socket) -> None:
    thread = threading.Thread(target=hand_back, args=(granted(listening, "zen4:0.2"),))
    thread.start()
    assert accept(listening, "zen4:0.1", "zen4") is None
    thread.join(10)
    assert not thread.is_alive()


def test_a_server_that_is_gone_needs_no_handing_back() -> None:
    hand_back(Grant(Address("127.0.0.1", free_port()), "zen4:0.1"))
