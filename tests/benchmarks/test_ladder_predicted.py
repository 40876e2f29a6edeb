from __future__ import annotations

import random
from types import SimpleNamespace

from benchmarks.ladder import predicted
from sparsecc.api.units import Group
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.measured import Measured
from sparsecc.autotune.rungs import DENSE, Rung
from sparsecc.autotune.store import Store

SITES = tuple("abcdefgh")
LADDER = {
    DENSE: Measured(SITES, 800.0, dict.fromkeys(SITES, 90.0), (), dict.fromkeys(SITES, 400)),
    Rung(pattern="4x1", sparsity=0.5): Measured(SITES[:6], 600.0, dict.fromkeys(SITES, 60.0), (), dict.fromkeys(SITES, 220)),
    Rung(pattern="4x1", sparsity=0.8): Measured(SITES[:6], 300.0, dict.fromkeys(SITES, 30.0), (), dict.fromkeys(SITES, 90)),
}


def test_mixtures_are_drawn_from_what_fits_and_can_be_predicted() -> None:
    cost = Cost(SimpleNamespace(groups={}), Store(), LADDER)  # type: ignore[arg-type]
    drawn = [predicted.mixture(cost, SITES, random.Random(seed)) for seed in range(30)]
    assert drawn == [predicted.mixture(cost, SITES, random.Random(seed)) for seed in range(30)]
    assert all(one["g"] == one["h"] == DENSE for one in drawn)
    sparsities = {rung.sparsity for one in drawn for rung in one.values()}
    assert sparsities == {None, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8}
    assert all(0.3 <= cost.predict(one) <= 0.8 for one in drawn)


def test_layers_of_a_group_become_narrower_together() -> None:
    group = Group("mlp", "neurons", ("a", "b"), 64)
    shares = {Rung(narrow=0.25): 250, Rung(narrow=0.5): 150}
    narrow = {
        rung: Measured(("a", "b"), 700.0, dict.fromkeys(SITES, 50.0), (), dict.fromkeys(SITES, size)) for rung, size in shares.items()
    }
    cost = Cost(SimpleNamespace(groups={"mlp": group}), Store(), LADDER | narrow)  # type: ignore[arg-type]
    drawn = [predicted.mixture(cost, SITES, random.Random(seed)) for seed in range(30)]
    assert {(one["a"].narrow, one["b"].narrow) for one in drawn} == {(None, None), (0.25, 0.25), (0.5, 0.5)}
    assert all(cost.recipe(one)["passes"] for one in drawn)


def found(median: float, worst: float) -> dict[str, object]:
    rows = [{"predicted_ms": 1.0, "measured_ms": 1.1, "error": -0.09, "bytes": 10}]
    return {"model": "m", "layers": 8, "rungs": ["dense"], "dense_ms": 2.0, "median": median, "worst": worst, "rows": rows, "seconds": 1.0}


def test_the_table_says_what_was_missed() -> None:
    document = {"recipes": 1, "seed": 0, "threads": 2, "models": [found(0.05, 0.12), found(0.02, 0.13), found(0.06, 0.1)]}
    assert [line.split(" | ")[-1] for line in predicted.markdown(document).splitlines()[-3:]] == ["reached |", "missed |", "missed |"]
    assert predicted.summary(found(0.02, 0.13)) == "m: median error 2.0%, worst 13.0% of 1"
