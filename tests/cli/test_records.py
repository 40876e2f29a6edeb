from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sparsecc.codegen.tuning.records import Records
from tests.codegen.tuning.tasks import DENSE, HERE, SPARSE, us

K = DENSE.space(HERE)[0]


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "r.db"
    with Records(path, HERE, "write") as records:
        records.add(DENSE, K, us(3))
        records.add(SPARSE, SPARSE.space(HERE)[0], us(2))
    with Records(path, replace(HERE, cpu="znver9"), "write") as records:
        records.add(DENSE, K, us(9))
    return path


def test_out_and_in_again(call, db, tmp_path):
    out, again = tmp_path / "r.json", tmp_path / "again.db"
    assert call("records", "export", db, out) == (0, f"{out}: 3 measurements\n", [])
    assert call("records", "import", out, again) == (0, f"{again}: 3 of 3 measurements are new or better\n", [])
    assert call("records", "merge", db, again, "--into", again)[0] == 2, "it is named twice"
    assert call("records", "merge", db, "--into", again) == (0, f"{again}: 0 of 3 measurements are new or better\n", [])


def test_show(call, db, tmp_path):
    code, text, errors = call("records", "show", db, "--json", tmp_path / "s.json")
    assert (code, errors) == (0, [])
    lines = text.splitlines()
    assert lines[0] == f"{HERE.cpu}, 2 threads (this machine)"
    assert lines[1] == f"    {DENSE}  1 measured  3 µs by {K}"
    assert lines[3] == "znver9, 2 threads (another target, no more than a hint here)"
    assert lines[-1] == f"{db}: 3 measurements of 3 tasks"
    assert [row["use"] for row in json.loads((tmp_path / "s.json").read_text())["tasks"]] == ["here", "here", "hint"]


def test_show_says_which_cost_models_there_are(call, db, tmp_path):
    with Records(db, HERE, "write") as records:
        for knobs in DENSE.space(HERE)[:20]:
            records.add(DENSE, knobs, us(3))
    assert call("records", "merge", db, "--into", tmp_path / "new.db")[0] == 0
    code, text, _ = call("records", "show", tmp_path / "new.db", "--json", tmp_path / "s.json")
    learned = f"cost model of dense_matmul for {HERE.cpu}, 2 threads: learned from 20 measurements and 1 for other targets"
    assert code == 0 and text.splitlines()[-2] == learned
    [model] = json.loads((tmp_path / "s.json").read_text())["models"]
    assert (model["kernel"], model["facts"], model["hints"], model["damaged"]) == ("dense_matmul", 20, 1, False)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("show", "none.db"), "none.db: no such file"),
        (("show", "r.json"), "r.json: holds no records, or damaged ones"),
        (("export", "r.json", "x.json"), "r.json: holds no records, or damaged ones"),
        (("export", "r.db", "no/x.json"), "there is no folder no"),
        (("export", "r.db", "r.db"), "r.db: is named twice"),
        (("import", "r.db", "x.db"), "r.db: is no export of records"),
        (("import", "r.json", "x.db"), "r.json: is no export of records"),
        (("merge", "r.db", "none.db", "--into", "x.db"), "none.db: no such file"),
        (("merge", "r.db", "--into", "r.json"), "r.json: holds no records, or damaged ones"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(call, db, monkeypatch, command, message):
    monkeypatch.chdir(db.parent)
    (db.parent / "r.json").write_text("passes: []\n" * 100)
    before = {path.name for path in db.parent.iterdir()}
    code, text, [error] = call("records", *command)
    assert (code, text) == (2, "") and message in error
    assert {path.name for path in db.parent.iterdir() if not path.name.endswith(("-wal", "-shm"))} <= before
