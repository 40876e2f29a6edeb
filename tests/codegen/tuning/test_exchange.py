from __future__ import annotations

import json
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning import exchange
from sparsecc.codegen.tuning.records import Outcome, Records
from sparsecc.codegen.tuning.store import Row, Store
from sparsecc.errors import UserError
from sparsecc.timing import Spread
from tests.codegen.tuning.tasks import DENSE, HERE, SPARSE, knobs, outcomes, tasks, us

K1, K2, K3 = (Tiles(16 * i, i, 8, 1) for i in (1, 2, 3))
OTHER = replace(HERE, cpu="znver9")


def fill(path: Path, rows: list[tuple[Task, Knobs, Outcome]], target=HERE) -> Path:
    with Records(path, target, "write") as records:
        for row in rows:
            records.add(*row)
    return path


def rows(path: Path) -> list[Row]:
    with Store(path, "read") as store:
        return store.rows()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = fill(tmp_path / "r.db", [(DENSE, K1, us(3)), (DENSE, K2, Outcome(None, "crashed: «µ»")), (SPARSE, K3, us(2))])
    return fill(path, [(DENSE, K1, us(9))], OTHER)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(tasks, knobs, outcomes), max_size=9))
def test_a_round_trip_is_exact(found: list[tuple[Task, Knobs, Outcome]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second, out = Path(folder, "a.db"), Path(folder, "b.db"), Path(folder, "a.json")
        fill(first, found)
        count = exchange.export(first, out)
        assert exchange.load(out, second) == (count, count)
        assert rows(first) == rows(second)
        assert exchange.export(second, Path(folder, "b.json")) == count
        assert Path(folder, "b.json").read_bytes() == out.read_bytes()


def test_what_is_exported_is_json_by_lines(db: Path, tmp_path: Path) -> None:
    assert exchange.export(db, tmp_path / "r.json") == 4
    head, *lines = [json.loads(line) for line in (tmp_path / "r.json").read_text().splitlines()]
    assert head == {"format": "sparsecc records", "version": 1}
    assert lines == [asdict(row) for row in rows(db)]


def line(path: Path, **changes: object) -> None:
    """Changes the second line."""
    head, first, *others = path.read_text().splitlines()
    path.write_text("\n".join([head, json.dumps(json.loads(first) | changes), *others]) + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), r"line 5: is no JSON, or cut off; nothing was imported"),
        (lambda path: path.write_text(""), "is no export of records"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00" * 99), "is no export of records"),
        (lambda path: path.write_text('{"passes": []}\n'), "is no export of records"),
        (lambda path: path.write_text('{"format": "sparsecc records", "version": 2}\n'), "another version of sparsecc .format 2"),
        (lambda path: line(path, extra=1), "line 2: is no measurement"),
        (lambda path: line(path, median_us=-1.0), "line 2: times have to be above zero"),
        (lambda path: line(path, median_us=float("nan")), "line 2: times have to be above zero"),
        (lambda path: line(path, failure="x"), "line 2: a failure is a text, and has no times"),
        (lambda path: line(path, tvm=27), "line 2: .* have to be texts"),
        (lambda path: line(path, task="[]"), "line 2: task and knobs have to be JSON objects"),
        (lambda path: line(path, task="{"), "line 2: "),
        (lambda path: line(path, knobs="{}"), "line 2: "),
        (lambda path: line(path, target="{}"), "line 2: the target is of no backend"),
        (lambda path: line(path, measured_at="yesterday"), "line 2: "),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
    ],
)
def test_what_is_no_export_changes_nothing(db: Path, tmp_path: Path, spoil, message: str) -> None:
    out, into = tmp_path / "r.json", tmp_path / "into.db"
    exchange.export(db, out)
    spoil(out)
    with pytest.raises(UserError, match=f"r.json.*{message}"):
        exchange.load(out, into)
    assert not into.exists()
    before = rows(db)
    with pytest.raises(UserError, match=message):
        exchange.load(out, db)
    assert rows(db) == before


def test_merging_takes_what_is_new_and_keeps_what_is_there(tmp_path: Path) -> None:
    a = fill(tmp_path / "a.db", [(DENSE, K1, us(3))])
    b = fill(tmp_path / "b.db", [(DENSE, K2, us(4))], OTHER)
    c = fill(tmp_path / "c.db", [(SPARSE, K3, us(5))])
    assert exchange.merge([a, b], c) == (2, 2)
    assert {row.median_us for row in rows(c)} == {3, 4, 5}
    assert exchange.merge([a, b, c], c) == (5, 0), "once more changes nothing"
    assert exchange.merge([a, b], tmp_path / "new.db") == (2, 2)
    assert not any("tmp" in path.name for path in tmp_path.iterdir())


WIDE, NARROW, FAILED = Outcome(Spread(10, 5, 20)), Outcome(Spread(11, 10.9, 11.2)), Outcome(None, "took longer than 20 s")


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("better", "worse"), [(NARROW, WIDE), (WIDE, FAILED), (NARROW, FAILED)])
def test_the_better_supported_one_stays_in_any_order(tmp_path: Path, better: Outcome, worse: Outcome, swapped: bool) -> None:
    paths = [fill(tmp_path / "a.db", [(DENSE, K1, better)]), fill(tmp_path / "b.db", [(DENSE, K1, worse)])]
    exchange.merge(paths[::-1] if swapped else paths, tmp_path / "c.db")
    with Records(tmp_path / "c.db", HERE, "read") as records:
        assert records.all() == {DENSE: {K1: better}}


def test_of_equal_ones_the_earlier(db: Path, tmp_path: Path) -> None:
    [first] = [row for row in rows(db) if row.failure]
    later = replace(first, measured_at="2199-01-01T00:00:00+00:00", failure="another")
    with Store(tmp_path / "later.db", "write") as store:
        store.add(later)
    exchange.merge([tmp_path / "later.db", db], tmp_path / "c.db")
    assert first in rows(tmp_path / "c.db") and later not in rows(tmp_path / "c.db")


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_everything_as_it_was(db: Path, tmp_path: Path) -> None:
    big = fill(tmp_path / "big.db", [(SPARSE, Tiles(16, i + 1, 8, 1), us(1)) for i in range(300)])
    before = rows(db)
    with full_disk(40_000):
        with pytest.raises(UserError, match=r"new.db: cannot be (written|used)"):
            exchange.merge([big], tmp_path / "new.db")
        with pytest.raises(UserError, match=r"big.json: cannot be written"):
            exchange.export(big, tmp_path / "big.json")
        with pytest.raises(UserError, match=r"r.db: cannot be (written|used)"):
            exchange.merge([big], db)
    assert rows(db) == before
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm"))) == ["big.db", "r.db"]
    assert not any("new" in path.name for path in tmp_path.iterdir())


def test_shown_by_target_and_task(db: Path) -> None:
    shown = exchange.show(db)
    assert [(row.use, row.target, row.task, row.measured, row.failures) for row in shown] == [
        ("here", HERE.cpu, str(DENSE), 2, 1),
        ("here", HERE.cpu, str(SPARSE), 1, 0),
        ("hint", "znver9", str(DENSE), 1, 0),
    ]
    assert [row.best.median for row in shown if row.best] == [3, 2, 9]
    assert shown[0].knobs == str(K1) and shown[0].to_dict()["best"]["median"] == 3


def test_what_this_version_has_not_is_shown_exported_and_not_used(db: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(db)) as database, database:
        database.execute("UPDATE measurements SET task = replace(task, 'dense_matmul', 'dense_matmul_of_old')")
    assert [(row.use, row.best) for row in exchange.show(db)][1:] == [("outdated", None)] * 2
    exchange.export(db, tmp_path / "r.json")
    assert exchange.load(tmp_path / "r.json", tmp_path / "c.db") == (4, 4)
    assert rows(tmp_path / "c.db") == rows(db)


def test_another_target_is_a_hint_and_no_fact(db: Path) -> None:
    with Records(db, OTHER, "read") as records:
        assert records.all() == {DENSE: {K1: us(9)}}
        [hint] = records.hints()
    assert hint.target == HERE and hint.tasks == {DENSE: {K1: us(3), K2: Outcome(None, "crashed: «µ»")}, SPARSE: {K3: us(2)}}
