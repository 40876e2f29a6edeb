from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc import database
from sparsecc.codegen.cpu import backend as cpu_backend
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Known, Task
from sparsecc.codegen.tuning import records as module
from sparsecc.codegen.tuning.records import Outcome, Records, best
from sparsecc.errors import UserError
from tests import ROOT
from tests.codegen.tuning.tasks import DENSE, HERE, SPARSE, knobs, outcomes, tasks, us

K1, K2, K3 = (Tiles(16 * i, i, 8, 1) for i in (1, 2, 3))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(tasks, knobs, outcomes), max_size=12))
def test_what_was_added_first_is_there(rows: list[tuple[Task, Knobs, Outcome]]) -> None:
    """After reopening, whatever was added later for the same task and knobs."""
    expected: dict[Task, dict[Knobs, Outcome]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.db")
        with Records(path, HERE, "write") as records:
            for task, some, outcome in rows:
                records.add(task, some, outcome)
                expected.setdefault(task, {}).setdefault(some, outcome)
            assert records.all() == expected
        with Records(path, HERE, "read") as records:
            assert records.all() == expected
            assert all(records.of(task) == found for task, found in expected.items())
            assert records.best() == {task: known for task, found in expected.items() if (known := best(found))}
        assert [file.name for file in Path(folder).iterdir() if file.suffix == ".db"] == ["r.db"]


def test_the_best_is_the_fastest_that_did_not_fail() -> None:
    assert best({K1: us(3), K2: Outcome(None, "crashed"), K3: us(2)}) == Known(K3, 2)
    assert best({K1: us(2), K2: us(2)}) == Known(K1, 2)
    assert best({K2: Outcome(None, "crashed")}) is None


def test_other_targets_versions_and_kernels_are_other_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.db"
    with Records(path, HERE, "write") as records:
        records.add(DENSE, K1, us(1))
    with Records(path, replace(HERE, threads=7), "read") as records:
        assert records.all() == {}
    with monkeypatch.context() as patch:
        patch.setattr(cpu_backend, "version", lambda backend, kernel: "another")
        with Records(path, HERE, "read") as records:
            assert records.all() == {}
    with monkeypatch.context() as patch:
        patch.setattr(module.importlib.metadata, "version", lambda name: "0.28")
        with Records(path, HERE, "write") as records:
            assert records.all() == {}
            records.add(DENSE, K1, us(9))
    with Records(path, HERE, "read") as records:
        assert records.of(DENSE) == {K1: us(1)}


def test_a_kernel_that_this_version_has_not_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with Records(path, HERE, "write") as records:
        records.add(DENSE, K1, us(1))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE measurements SET task = replace(task, 'dense_matmul', 'dense_matmul_of_old')")
    with Records(path, HERE, "read") as records:
        assert records.all() == {}


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE measurements (x)")


def of_a_later_version(path: Path) -> None:
    Records(path, HERE, "write").close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")


def cut(path: Path) -> None:
    with Records(path, HERE, "write") as records:
        for i in range(200):
            records.add(SPARSE, Tiles(16, i + 1, 8, 1), us(1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    with Records(path, HERE, "write") as records:
        for i in range(200):
            records.add(SPARSE, Tiles(16, i + 1, 8, 1), us(1))
    content = bytearray(path.read_bytes())
    content[4096 : 3 * 4096] = b"x" * (2 * 4096)
    path.write_bytes(content)


def nonsense(path: Path) -> None:
    with Records(path, HERE, "write") as records:
        records.add(DENSE, K1, us(1))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE measurements SET knobs = '{}'")


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("passes: []\n" * 100), "holds no records, or damaged ones"),
        (foreign, "is a database, but holds no records of sparsecc"),
        (of_a_later_version, "was written by another version of sparsecc"),
        (cut, "damaged"),
        (overwritten, "damaged"),
        (nonsense, "is damaged"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
)
def test_what_are_no_records_is_refused_and_left_alone(tmp_path: Path, make, message: str, mode) -> None:
    path = tmp_path / "r.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError, match=f"r.db: .*{message}"), Records(path, HERE, mode) as records:
        records.all()
    assert before is None or path.read_bytes() == before


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"r.db: no such file; `sparsecc tune` writes one"):
        Records(tmp_path / "r.db", HERE, "read")
    with pytest.raises(UserError, match="there is no folder"):
        Records(tmp_path / "no" / "r.db", HERE, "write")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def without_rights() -> Iterator[None]:
    """As somebody who may read what all may read, and write nothing; root could write anything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_only_be_read() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "r.db")
        with Records(path, HERE, "write") as records:
            records.add(DENSE, K1, us(1))
        before = path.read_bytes()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        with without_rights():
            with pytest.raises(UserError, match=r"r.db: cannot be (written|used)"):
                Records(path, HERE, "write")
            with Records(path, HERE, "read") as records:
                assert records.of(DENSE) == {K1: us(1)}
        Path(folder).chmod(0o755)
        assert path.read_bytes() == before
        assert [file.name for file in Path(folder).iterdir()] == ["r.db"]


def test_a_lock_that_nobody_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PATIENCE", 0.1)
    with Records(tmp_path / "r.db", HERE, "write") as records, closing(sqlite3.connect(tmp_path / "r.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match=r"r.db: another process has kept it locked"):
            records.add(DENSE, K1, us(1))


WRITER = """
import itertools, sys
from pathlib import Path
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.tuning.records import Records
from tests.codegen.tuning.tasks import DENSE, HERE, us

path, groups, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with Records(path, HERE, "write") as records:
    for i in range(count) if count else itertools.count():
        records.add(DENSE, Tiles(16, i + 1, 8, groups), us(1))
        print(i + 1, flush=True)
"""


def writer(path: Path, groups: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(groups), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_two_processes_make_and_fill_one_file(tmp_path: Path) -> None:
    processes = [writer(tmp_path / "r.db", groups, 100) for groups in (1, 2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    with Records(tmp_path / "r.db", HERE, "read") as records:
        assert set(records.of(DENSE)) == {Tiles(16, i + 1, 8, groups) for i in range(100) for groups in (1, 2)}


def test_who_is_killed_loses_at_most_one(tmp_path: Path) -> None:
    process = writer(tmp_path / "r.db", 1, 0)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    for _ in range(50):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    said = [50, *(int(line) for line in process.stdout.read().split("\n")[:-1])][-1]
    process.wait()
    with Records(tmp_path / "r.db", HERE, "read") as records:
        assert said <= len(records.of(DENSE)) <= said + 1
    with Records(tmp_path / "r.db", HERE, "write") as records:
        records.add(SPARSE, K1, us(1))
        assert records.of(SPARSE) == {K1: us(1)}
