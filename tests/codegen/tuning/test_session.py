"""The server's side of a session, called as TVM calls it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sparsecc.codegen.tuning import session as module
from sparsecc.codegen.tuning.measure import Reply, Request, Way
from sparsecc.codegen.tuning.session import Answer, Hello, Session, Welcome
from sparsecc.codegen.tuning.text import parse, text
from sparsecc.codegen.tuning.worker import Worker
from tests.codegen.tuning.tasks import HERE, SMALL

HELLO = Hello.of(HERE, 20.0)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with closing(Session(tmp_path, threads=2)) as made:
        yield made


def test_the_same_machine_and_code_are_welcome(session: Session) -> None:
    welcome = parse(Welcome, session.greet(text(HELLO)))
    assert welcome.name and welcome.refusal is None


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello.of(replace(HERE, cpu="znver9"), 1.0), "is no znver9, so that times measured there do not hold for it"),
        (Hello.of(replace(HERE, features=(*HERE.features, "avx10")), 1.0), "cannot run the code: .*this CPU lacks avx10"),
        (Hello.of(replace(HERE, triple="riscv64-linux-gnu"), 1.0), "cannot run the code: compiled for riscv64-linux-gnu"),
        (Hello.of(replace(HERE, threads=7), 1.0), "lends 2 threads, 7 are to be measured"),
        (replace(HELLO, tvm="0.99"), "has TVM .*, not 0.99"),
        (replace(HELLO, kernels={"dense_matmul": "another"}), "has another version of sparsecc, whose dense_matmul differs"),
        (replace(HELLO, kernels={"of_tomorrow": "x"}), "has another version of sparsecc, whose of_tomorrow differs"),
    ],
)
def test_others_are_refused(session: Session, hello: Hello, reason: str) -> None:
    refusal = parse(Welcome, session.greet(text(hello))).refusal
    assert refusal is not None and re.match(reason, refusal)


def test_how_long_it_was_not_asked_for_anything(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.greet(text(HELLO))
    while session.idle_s == 0.0:
        pass
    during: list[float] = []
    monkeypatch.setattr(Worker, "ask", lambda *_: during.append(session.idle_s) or Reply(failure="x"))
    session.measure(text(Request("cpu", text(HERE), None, Way(SMALL, text(SMALL.space(HERE)[0])), None, 20.0)))
    assert during == [0.0] and session.idle_s < 20


@pytest.mark.parametrize("name", ["../w", "w.npy", "", "0" * 200])
def test_names_of_weights_lead_nowhere_else(session: Session, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a weight"):
        session.keep(name, b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_does_not_start_is_trouble_of_the_server(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such library')"]
    monkeypatch.setattr(module, "Worker", partial(Worker, command=command))
    session.greet(text(HELLO))
    request = Request("cpu", text(HERE), None, Way(SMALL, text(SMALL.space(HERE)[0])), None, 20.0)
    answer = parse(Answer, session.measure(text(request)))
    assert answer.reply is None and answer.trouble is not None and "no such library" in answer.trouble
