"""Recovery of one assignment, on a small model; where it is about time, by a clock that steps of learning move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparsecc
from sparsecc.api.trials import Trials
from sparsecc.autotune.budget import TRY, Budget
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.judge import Judge, split
from sparsecc.autotune.maker import Maker
from sparsecc.autotune.recovering import Recovering
from sparsecc.autotune.repair import Repair
from sparsecc.autotune.rungs import DENSE, Rung
from sparsecc.autotune.store import Store
from sparsecc.calibration.context import Progress
from sparsecc.calibration.samples import labelled_of
from tests.autotune.test_tune import model, samples

ZEROS = "unstructured 80%"


class Clock:
    """Moves by so many seconds with each step of learning."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds, self.steps = 0.0, seconds, 0

    def __call__(self) -> float:
        return self.now

    def told(self, now: Progress) -> None:
        if now.what == "distillation":
            self.now, self.steps = self.now + self.seconds, self.steps + 1


@pytest.fixture(scope="module")
def measured() -> Maker:
    trials = Trials.open(model(), samples(1)[0], threads=1)
    choosing, held = split(labelled_of(samples(), trials.graph.inputs))
    given, goal, store = [one.sample for one in choosing], Goal.parse("cosine>=0.9"), Store()
    dense = trials.compile({"passes": []}, given)
    cost = Cost.measured(trials, (DENSE, Rung.parse(ZEROS)), store, seconds=0.05, dense=dense)
    judge = Judge(goal, dense, trials.graph.inputs, held)
    return Maker(trials, cost, judge, store, given, held, dense, {"criterion": "sparsegpt"}, goal)


@pytest.fixture
def maker(measured: Maker) -> Iterator[Maker]:
    with Store() as store:
        yield replace(measured, store=store, made={})


def by(maker: Maker, clock: Clock, folder: Path, minutes: float = 10.0) -> Recovering:
    repair = Repair.of(maker.trials.graph, "sparsegpt")
    return Recovering(maker, Budget(minutes, clock), repair, folder / "recovered", clock.told)


def everywhere(maker: Maker) -> dict[str, str]:
    return dict.fromkeys(maker.trials.sites, ZEROS)


def steps_of(maker: Maker, one: Any) -> int:
    return next(step["recover"]["steps"] for step in maker.point(one).recipe["passes"] if "recover" in step)


def test_it_lowers_the_error_and_the_recipe_says_how(maker: Maker, tmp_path: Path) -> None:
    recover = by(maker, Clock(1.0), tmp_path)
    one_shot, recovered = maker(everywhere(maker)), recover(everywhere(maker))
    assert recovered is not None and recovered.recovered and not one_shot.recovered
    assert recovered.error < 0.95 * one_shot.error
    point = maker.point(recovered)
    assert point.recovered and "checkpoint" not in str(point.recipe) and "alps" in str(point.recipe)
    # 0.65 of 600 s, after the nine steps by which the time of one was measured
    assert steps_of(maker, recovered) == 380
    assert maker.knows(everywhere(maker), Repair("distillation", "alps", 380))


def test_the_same_steps_in_a_second_run_which_measures_nothing_again(maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1.0)
    first = by(maker, clock, tmp_path)(everywhere(maker))
    taken = clock.steps
    monkeypatch.setattr(Trials, "rewritten", None)
    monkeypatch.setattr(Trials, "compile", None)
    other = Clock(7.0)
    assert by(maker, other, tmp_path)(everywhere(maker)) == first
    assert clock.steps == taken and other.steps == 0


def test_the_model_is_made_again_from_its_checkpoint_at_once(maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recovered = by(maker, Clock(1.0), tmp_path)(everywhere(maker))
    assert recovered is not None
    monkeypatch.setattr("sparsecc.recovery.distill._Run.take", None)  # no step is taken
    point = maker.point(recovered)
    found = sparsecc.compile(model(), samples(1)[0], recipe=point.again, calibration=maker.samples, threads=1)
    assert maker._error(found) == pytest.approx(recovered.error, rel=1e-3)


def test_one_that_was_killed_goes_on(maker: Maker, tmp_path: Path) -> None:
    clock, killed = Clock(1.0), by(maker, Clock(1.0), tmp_path)
    steps = []

    def interrupt(now: Progress) -> None:
        clock.told(now)
        steps.append(now)
        if now.what == "distillation" and now.done == 100:
            raise KeyboardInterrupt

    killed.budget, killed.progress = Budget(10.0, clock), interrupt
    with pytest.raises(KeyboardInterrupt):
        killed(everywhere(maker))
    other = Clock(1.0)
    recovered = by(maker, other, tmp_path)(everywhere(maker))
    assert recovered is not None and steps_of(maker, recovered) == 380
    assert 280 <= other.steps <= 294  # from the last look on


def test_steps_that_became_slow_do_not_exceed_the_minutes(maker: Maker, tmp_path: Path) -> None:
    clock = Clock(1.0)
    recover = by(maker, clock, tmp_path)

    def slower(now: Progress) -> None:
        clock.seconds = 1.0 if clock.steps < 20 else 30.0
        clock.told(now)

    recover.progress = slower
    recover.budget.lasted[TRY] = 5.0
    assert recover(everywhere(maker)) is None and recover.stopped == "the time was over"
    assert 560 <= clock.now <= 600 + 30
    assert list((tmp_path / "recovered").glob("*.safetensors"))


def test_no_time_for_any_steps(maker: Maker, tmp_path: Path) -> None:
    recover = by(maker, Clock(10.0), tmp_path, minutes=5.0)
    assert recover(everywhere(maker)) is None and recover.stopped == "less than 50 steps of recovery fit into the time"


def test_nothing_was_pruned(maker: Maker, tmp_path: Path) -> None:
    recover = by(maker, Clock(1.0), tmp_path)
    assert recover(dict.fromkeys(maker.trials.sites, "dense")) is None
    assert recover.stopped == "no layer of the models that were chosen can learn"


def test_checkpoints_of_what_is_not_the_best_are_deleted(maker: Maker, tmp_path: Path) -> None:
    recover = by(maker, Clock(1.0), tmp_path)
    some = {site: ZEROS if place else "dense" for place, site in enumerate(maker.trials.sites)}
    made = [one for assignment in (everywhere(maker), some) if (one := recover(assignment)) is not None]
    assert len(made) == 2 == len(list(recover.folder.iterdir()))
    assert [steps_of(maker, one) for one in made] == [380, 130]  # of what the first has left
    recover.forget(made, made[1:])
    (left,) = recover.folder.iterdir()
    assert left.name in str(maker.point(made[1]).again)
