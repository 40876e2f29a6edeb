from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sparsecc.codegen.knobs import Knobs
from sparsecc.codegen.task import Task
from sparsecc.codegen.tuning import carried as module
from sparsecc.codegen.tuning import exchange
from sparsecc.codegen.tuning.carried import Carried
from sparsecc.codegen.tuning.cost_model import CostModel
from sparsecc.codegen.tuning.measurer import InTurn, Job
from sparsecc.codegen.tuning.records import Outcome, Records
from sparsecc.codegen.tuning.store import Model, Store
from sparsecc.codegen.tuning.tuner import Budget, Tuner
from sparsecc.codegen.tuning.workload import Workload
from sparsecc.errors import UserError
from tests.codegen.tuning.tasks import DENSE, HERE, SPARSE, cost, us

OTHER = replace(SPARSE, spec=replace(SPARSE.spec, rows=1024, batch=3))
KERNEL = SPARSE.kernel


def measured(job: Job) -> Outcome:
    return us(cost(job.task, job.knobs))


def tuned(path: Path, task: Task, trials: int) -> list[Knobs]:
    """What a tuner asks for, in its order."""
    asked: list[Knobs] = []

    def measure(job: Job) -> Outcome:
        asked.append(job.knobs)
        return measured(job)

    workload = Workload(Counter({(task,): 1}), {task: Path("w.npy")})
    with Records(path, HERE, "write") as records:
        Tuner(workload, records, HERE, InTurn(measure), Budget(trials=trials)).run()
    return asked


def filled(path: Path, task: Task, count: int, seed: int = 0, target=HERE) -> Path:
    with Records(path, target, "write") as records:
        for knobs in random.Random(seed).sample(task.space(HERE), count):
            records.add(task, knobs, us(cost(task, knobs)))
    return path


def models(path: Path) -> list[Model]:
    with Store(path, "read") as store:
        return store.models()


def used(path: Path) -> CostModel:
    with Records(path, HERE, "read") as records:
        return Carried(records, HERE).model(KERNEL, records.all())


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def test_tuning_leaves_a_model_of_all_that_was_measured(tmp_path: Path) -> None:
    path = filled(tmp_path / "r.db", SPARSE, 20, target=replace(HERE, threads=7))
    tuned(path, SPARSE, 30)
    [model] = models(path)
    assert (model.kernel, model.facts, model.hints) == (KERNEL, 30, 20)
    [shown] = exchange.models(path)
    assert str(shown) == (f"cost model of row_block_spmm for {HERE.cpu}, 2 threads: learned from 30 measurements and 20 for other targets")


def test_it_is_loaded_where_nothing_was_measured_since_and_else_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(tmp_path / "r.db", SPARSE, 30)
    with monkeypatch.context() as patch:
        patch.setattr(module.CostModel, "of", lambda *_: pytest.fail("trains"))
        assert used(tmp_path / "r.db").save() == models(tmp_path / "r.db")[0].raw
        assert tuned(tmp_path / "r.db", SPARSE, 30) == []
    filled(tmp_path / "r.db", OTHER, 5)
    assert used(tmp_path / "r.db").save() != models(tmp_path / "r.db")[0].raw


def needed(asked: Sequence[Knobs], task: Task) -> int:
    """Measurements until one within 2 % of the best."""
    enough = 1.02 * min(cost(task, knobs) for knobs in task.space(HERE))
    return next(number for number, knobs in enumerate(asked, 1) if cost(task, knobs) <= enough)


def test_with_what_other_tasks_taught_fewer_measurements_find_the_best(tmp_path: Path) -> None:
    alone = needed(tuned(tmp_path / "alone.db", OTHER, 200), OTHER)
    taught = needed(tuned(filled(tmp_path / "taught.db", SPARSE, 150), OTHER, 200), OTHER)
    assert taught <= 12 < alone


def test_it_goes_with_exports_and_imports(tmp_path: Path) -> None:
    tuned(tmp_path / "r.db", SPARSE, 30)
    exchange.export(tmp_path / "r.db", tmp_path / "r.json")
    exchange.load(tmp_path / "r.json", tmp_path / "again.db")
    assert models(tmp_path / "again.db") == models(tmp_path / "r.db") != []


def test_merging_trains_it_with_all(tmp_path: Path) -> None:
    sources = [filled(tmp_path / "a.db", SPARSE, 20), filled(tmp_path / "b.db", OTHER, 9)]
    filled(tmp_path / "b.db", SPARSE, 4, target=replace(HERE, cpu="znver9"))
    filled(tmp_path / "b.db", DENSE, 3)
    tuned(tmp_path / "into.db", SPARSE, 13)
    exchange.merge(sources, tmp_path / "into.db")
    with Records(tmp_path / "into.db", HERE, "read") as records:
        facts = sum(len(found) for task, found in records.all().items() if task.kernel == KERNEL)
    assert [(model.kernel, model.facts, model.hints) for model in models(tmp_path / "into.db")] == [(KERNEL, facts, 4)]


def test_without_xgboost_merging_drops_what_does_not_hold_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UserError("xgboost is not installed")

    tuned(tmp_path / "r.db", SPARSE, 30)
    monkeypatch.setattr(module, "require_xgboost", missing)
    exchange.merge([tmp_path / "r.db"], tmp_path / "r.db")
    assert len(models(tmp_path / "r.db")) == 1, "nothing was new"
    exchange.merge([filled(tmp_path / "b.db", OTHER, 20)], tmp_path / "r.db")
    assert models(tmp_path / "r.db") == []


def test_a_damaged_one_is_shown_and_trained_anew(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    tuned(path, SPARSE, 30)
    [before] = models(path)
    changed(path, "UPDATE models SET raw = substr(raw, 1, 99)")
    [shown] = exchange.models(path)
    assert shown.damaged and str(shown).endswith("is damaged, the next `tune` trains it anew")
    assert used(path).save() == before.raw
    assert tuned(path, SPARSE, 30) == []
    assert models(path) == [before]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    tuned(path, SPARSE, 30)
    changed(path, "UPDATE models SET target = 'nobody'")
    with pytest.raises(UserError, match=r"r.db: is damaged"):
        exchange.models(path)


def test_files_from_before_have_none_and_get_one(tmp_path: Path) -> None:
    path = filled(tmp_path / "r.db", SPARSE, 20)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'models'").fetchone() == (0,)
    assert exchange.models(path) == []
    tuned(path, SPARSE, 21)
    assert [model.facts for model in models(path)] == [21]
