from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sparsecc.autotune.store import Store
from sparsecc.errors import UserError
from tests import ROOT


def test_what_is_put_is_found(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store.put({"rung": "int8", "model": "m"}, {"us": [1.5, 2.0]})
        assert store.get({"model": "m", "rung": "int8"}) == {"us": [1.5, 2.0]}  # in whatever order the key is
        assert store.get({"model": "m", "rung": "dense"}) is None
    with Store(tmp_path / "s.db") as store:
        assert store.get({"model": "m", "rung": "int8"}) == {"us": [1.5, 2.0]}


def test_what_is_there_stays() -> None:
    with Store() as store:
        store.put({"a": 1}, 1)
        store.put({"a": 1}, 2)
        assert store.get({"a": 1}) == 1


def test_a_killed_process_loses_nothing_that_it_has_put(tmp_path: Path) -> None:
    work = (
        "import os, signal, sys; from sparsecc.autotune.store import Store; store = Store(sys.argv[1])\n"
        "for number in range(3): store.put({'number': number}, number)\n"
        "store._connection.execute('BEGIN'); store.put({'number': 3}, 3); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", work, str(tmp_path / "s.db")], env=environment, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with Store(tmp_path / "s.db") as store:
        assert [store.get({"number": number}) for number in range(4)] == [0, 1, 2, None]


def test_two_processes_may_use_one_file(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as one, Store(tmp_path / "s.db") as other:
        one.put({"a": 1}, "one")
        other.put({"b": 1}, "other")
        assert (one.get({"b": 1}), other.get({"a": 1})) == ("other", "one")


def _foreign(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE t (x)")


def _text(path: Path) -> None:
    path.write_text("no database " * 100)


def _newer(path: Path) -> None:
    Store(path).close()
    sqlite3.connect(path).execute("PRAGMA user_version = 99")


def _cut(path: Path) -> None:
    with Store(path) as store:
        for number in range(200):
            store.put({"number": number}, "x" * 100)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_foreign, "holds no measurements of whole models"),
        (_text, "holds no measurements"),
        (_newer, "another version"),
        (_cut, "damaged"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, spoil, said: str) -> None:
    spoil(tmp_path / "s.db")
    with pytest.raises(UserError, match=said):
        Store(tmp_path / "s.db")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        Store(tmp_path / "none" / "s.db")


def test_what_is_no_json(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        store._connection.execute("INSERT INTO measurements VALUES (?, ?)", ('{"a": 1}', "{"))
        with pytest.raises(UserError, match=r"s\.db: is damaged"):
            store.get({"a": 1})
