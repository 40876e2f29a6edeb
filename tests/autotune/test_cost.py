"""Predictions from measurements that are given, and what is measured of a small model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsecc.api.trials import Trials
from sparsecc.autotune import cost as module
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.measured import Input, Measured
from sparsecc.autotune.rungs import DENSE, Rung, ladder
from sparsecc.autotune.store import Store
from sparsecc.errors import UserError
from sparsecc.report.base import Report, SiteReport
from sparsecc.report.profile import Profile, Row
from sparsecc.timing import Spread

SITES = ("query", "key", "out")
INT8, HALF, MOST = Rung("int8"), Rung("int8", "1x4", 0.5), Rung("int8", "1x4", 0.8)


def measured(whole: float, *us: float, shared: float = 0.0, fits: tuple[str, ...] = SITES, size: int = 100) -> Measured:
    """shared: of what query and key read, once for both."""
    inputs = (Input("group_tokens", ("query", "key"), shared),) if shared else ()
    return Measured(fits, whole, dict(zip(SITES, us, strict=True)), inputs, dict.fromkeys(SITES, size), other_bytes=7)


LADDER = {
    DENSE: measured(130.0, 30.0, 30.0, 40.0, size=400),
    INT8: measured(70.0, 10.0, 10.0, 40.0, shared=6.0, fits=("query", "key"), size=100),
    HALF: measured(60.0, 8.0, 8.0, 12.0, shared=4.0, size=60),
    MOST: measured(40.0, 2.0, 2.0, 6.0, shared=4.0, size=30),
}


def given(**changes: Measured) -> Cost:
    return Cost(SimpleNamespace(), Store(), LADDER | {Rung.parse(name): found for name, found in changes.items()})  # type: ignore[arg-type]


def test_all_layers_on_one_rung_take_what_was_measured() -> None:
    for rung, found in LADDER.items():
        assert given().predict(dict.fromkeys(found.fits, rung)) == pytest.approx(found.whole_us / 1e3)
    assert given().predict({}) == pytest.approx(0.13) == given().dense_ms


def test_an_input_that_two_layers_read_is_rounded_once() -> None:
    cost, rest = given(), given()._rest
    alone = cost.predict({"query": HALF})
    assert 1e3 * alone == pytest.approx(8 + rest[HALF] + 4 + 30 + 40 + 2 * rest[DENSE])
    both = cost.predict({"query": HALF, "key": HALF})
    assert 1e3 * both == pytest.approx(8 + 8 + 2 * rest[HALF] + 4 + 40 + rest[DENSE])


def test_layers_in_the_same_numbers_share_it_whatever_their_zeros() -> None:
    cost, rest = given(), given()._rest
    assert 1e3 * cost.predict({"query": INT8, "key": MOST}) == pytest.approx(
        10 + 2 + rest[INT8] + rest[MOST] + (6 + 4) / 2 + 40 + rest[DENSE]
    )


def test_between_two_sparsities_it_is_a_straight_line() -> None:
    cost = given()
    for assignment in ({"out": HALF}, dict.fromkeys(SITES, HALF)):
        low, high = (cost.predict(dict.fromkeys(assignment, rung)) for rung in (HALF, MOST))
        assert cost.predict(dict.fromkeys(assignment, HALF.at(0.6))) == pytest.approx(low + (high - low) / 3)
    assert cost.bytes(dict.fromkeys(SITES, HALF.at(0.6))) == 3 * 50 + 7


def test_bytes() -> None:
    assert given().bytes({}) == 3 * 400 + 7
    assert given().bytes({"query": INT8, "out": MOST}) == 100 + 400 + 30 + 7


def refused(assignment: Mapping[str, Rung]) -> Callable[[Cost], Any]:
    return lambda cost: cost.predict(assignment)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (refused({"quary": INT8}), "no layer 'quary'; did you mean 'query'"),
        (refused({"out": INT8}), "layer 'out': cannot be int8; it can be dense, int8 1x4 50%, int8 1x4 80%"),
        (refused({"out": HALF.at(0.9)}), "'int8 1x4 90%' was not measured"),
        (refused({"out": Rung("bfloat16")}), "'bfloat16' was not measured"),
        (refused({"out": Rung(pattern="2:4")}), "'2:4' was not measured"),
        (lambda cost: cost.bytes({"out": INT8}), "cannot be int8"),
        (lambda cost: cost.rungs("other"), "no layer 'other'"),
        (lambda cost: cost.correct({}, 0.0), "positive time"),
        (lambda cost: cost.correct({}, float("nan")), "positive time"),
    ],
)
def test_what_cannot_be_predicted(ask: Callable[[Cost], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ask(given())


def test_a_check_is_taken_on_in_part() -> None:
    cost, mixture = given(), {"query": HALF, "out": MOST}
    before, other, dense = cost.predict(mixture), cost.predict(dict.fromkeys(SITES, MOST)), cost.predict({})
    cost.correct(mixture, 1.2 * before)
    assert before < cost.predict(mixture) < 1.2 * before
    assert cost.predict(dict.fromkeys(SITES, MOST)) > other
    assert dense < cost.predict({}) < 1.2 * dense
    for _ in range(20):
        cost.correct(mixture, 1.2 * before)
    assert cost.predict(mixture) == pytest.approx(1.2 * before, rel=1e-3)


def test_a_check_that_agrees_changes_nothing() -> None:
    cost = given()
    cost.correct({"out": MOST}, cost.predict({"out": MOST}))
    assert cost.predict({"query": HALF}) == pytest.approx(given().predict({"query": HALF}))


def test_through_json() -> None:
    assert Measured.from_dict(json.loads(json.dumps(LADDER[HALF].to_dict()))) == LADDER[HALF]


def fake(**fields: Any) -> Any:
    target = SimpleNamespace(name="cpu")
    plain = {"fingerprint": "m", "target_text": "t", "version": "v", "target": target, "is_here": True, "sites": SITES, "groups": {}}
    return SimpleNamespace(**{**plain, **fields})


def test_a_profile_is_brought_to_the_common_scale() -> None:
    rows = (
        Row("group_0", "group_tokens", None, ("query", "key"), 8.0),
        Row("dense_1", "dense_matmul", "query", (), 16.0),
        Row("add", None, None, (), 4.0),
    )
    profile = Profile(rows, Spread(50.0, 40.0, 90.0), Spread(1.5, 1.4, 1.6), rounds=9, threads=2)
    sites = (
        SiteReport(name="query", kind="Linear", shape=(2, 2), bytes_dense=16),
        SiteReport(name="table", kind="x", shape=(5,), bytes_dense=20),
    )
    report = Report(sparsecc="1", model="m", target="cpu", sites=sites)
    found = Measured.of(["query"], profile, 80.0, report, ["query", "key"])
    assert found == Measured(
        ("query",), 80.0, {"query": 32.0, "key": 0.0}, (Input("group_tokens", ("query", "key"), 16.0),), {"query": 16, "key": 0}, 20
    )


def test_what_is_known_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Rung] = []

    def measure(_: Any, rung: Rung) -> Measured:
        asked.append(rung)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return LADDER[rung]

    monkeypatch.setattr(module._Meter, "_measured", measure)
    store = Store()
    with pytest.raises(KeyboardInterrupt):
        Cost.measured(fake(), list(LADDER), store)
    again = Cost.measured(fake(), list(LADDER), store)
    assert asked == [DENSE, INT8, HALF, HALF, MOST]
    assert Cost.measured(fake(), list(LADDER), store).predict({"out": MOST}) == again.predict({"out": MOST})
    assert len(asked) == 5
    for other in ({"fingerprint": "n"}, {"target_text": "t2"}, {"version": "w"}):
        asked.clear()
        asked.extend([DENSE] * 5)
        Cost.measured(fake(**other), [DENSE], store)
        assert len(asked) == 6, other


def test_a_target_elsewhere() -> None:
    with pytest.raises(UserError, match="not this machine"):
        Cost.measured(fake(is_here=False, target=SimpleNamespace(name="znver9")), [DENSE], Store())


def test_measurements_that_are_damaged() -> None:
    store = Store()
    store.put({"model": "m", "target": "t", "code": "v", "rung": "dense"}, {"fits": []})
    with pytest.raises(UserError, match="damaged"):
        Cost.measured(fake(), [DENSE], store)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.out, self.small = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.small(self.out(torch.tanh(self.query(x)) * self.key(x)))


RUNGS = (INT8, Rung("int8", "1x4", 0.5), Rung(pattern="4x1", sparsity=0.5), Rung(pattern="4x1", sparsity=0.75))


@cache
def trials() -> Trials:
    torch.manual_seed(0)
    return Trials.open(Layers().eval(), torch.randn(32, 64), threads=1)


@cache
def real() -> Cost:
    return Cost.measured(trials(), RUNGS, Store(), seconds=0.05)


def test_a_small_layer_stays_dense() -> None:
    assert real().rungs("small") == (DENSE,)
    assert real().rungs("query") == (DENSE, *RUNGS)


def test_the_whole_of_a_uniform_model_is_what_was_measured() -> None:
    for rung in RUNGS:
        found = real()._ladder[rung]
        assert found.fits == SITES and all(found.site_us[site] > 0 for site in SITES)
        assert real().predict(dict.fromkeys(SITES, rung)) == pytest.approx(found.whole_us / 1e3)
    rounded = [one.readers for one in real()._ladder[INT8].inputs if one.kernel == "group_tokens"]
    assert rounded == [("query", "key"), ("out",)]


@pytest.mark.parametrize(
    "mixture",
    [{}, {"query": RUNGS[0], "key": RUNGS[1], "out": RUNGS[2]}, {"query": RUNGS[3], "out": RUNGS[1]}, dict.fromkeys(SITES, RUNGS[2])],
)
def test_bytes_are_those_of_the_report(mixture: Mapping[str, Rung]) -> None:
    compiled = trials().compile(real().recipe(mixture, prune={"criterion": "random"}))
    assert real().bytes(mixture) == compiled.report.totals["bytes_kept"]


def test_a_mixture_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture = {"query": RUNGS[0], "out": RUNGS[2]}
    found = real().check(mixture, seconds=0.05)
    monkeypatch.setattr(module._Meter, "beside_dense", None)
    assert found == real().check(dict(reversed(mixture.items())), seconds=0.05) > 0
    assert real().check({}) == pytest.approx(real().dense_ms)


def test_models_are_told_apart() -> None:
    torch.manual_seed(0)
    same, other = Layers().eval(), Layers().eval()
    x = torch.randn(32, 64)
    assert Trials.open(same, x, threads=1).fingerprint == trials().fingerprint
    assert Trials.open(other, x, threads=1).fingerprint != trials().fingerprint
    assert Trials.open(same, x[:16], threads=1).fingerprint != trials().fingerprint


def test_the_default_ladder_fits() -> None:
    for rung in (rung for rung in ladder(trials().dtypes) if rung.narrow is None):
        recipe = module.everywhere(rung, **module._ON_RANDOM)
        deeds = trials().deeds(recipe)
        assert all(deeds[site] == len(recipe["passes"]) for site in SITES), rung


def test_any_variant_is_timed_on_the_scale_of_the_dense_model() -> None:
    compiled = trials().compile(real().recipe({"out": RUNGS[2]}, prune={"criterion": "random"}))
    assert 0 < real().time(compiled, seconds=0.05) < 20 * real().dense_ms


class Blocks(nn.Module):
    """An Mlp whose layers fit all numbers, one whose second is too small for int8, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)
        self.alone, self.fc1, self.fc2 = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.layer_norm(self.alone(x + self.second(torch.relu(self.first(x)))), (64,))
        return self.fc2(torch.relu(self.fc1(x)))


NARROW = (INT8, Rung("int8", narrow=0.25), Rung("int8", narrow=0.5), Rung(narrow=0.25))


@cache
def narrower() -> Cost:
    torch.manual_seed(0)
    return Cost.measured(Trials.open(Blocks().eval(), torch.randn(32, 64), threads=1), NARROW, Store(), seconds=0.05)


def test_layers_become_narrower_in_whole_groups() -> None:
    cost, (numbers, quarter, half, plain) = narrower(), NARROW
    assert {name: group.layers for name, group in cost.trials.groups.items()} == {"mlp": ("first", "second"), "mlp_1": ("fc1", "fc2")}
    assert cost.rungs("first") == cost.rungs("second") == (DENSE, *NARROW)
    assert cost.rungs("alone") == (DENSE, numbers)
    assert plain in cost.rungs("fc1") and plain in cost.rungs("fc2")
    assert quarter not in cost.rungs("fc1") and quarter not in cost.rungs("fc2")  # the second is too small for int8
    assert half.at(0.3) not in cost.rungs("first")
    low, high = (cost.predict({"first": rung, "second": rung}) for rung in (quarter, half))
    assert cost.predict(dict.fromkeys(("first", "second"), half.at(0.375))) == pytest.approx((low + high) / 2)


@pytest.mark.parametrize(
    "mixture",
    [
        {"first": NARROW[1], "second": NARROW[1]},
        {"first": NARROW[2], "second": NARROW[2], "alone": INT8, "fc1": NARROW[3], "fc2": NARROW[3]},
        {"first": NARROW[1], "second": NARROW[3]},
    ],
)
def test_bytes_of_narrower_layers_are_those_of_the_report(mixture: Mapping[str, Rung]) -> None:
    compiled = narrower().trials.compile(narrower().recipe(mixture, **module._ON_RANDOM))
    assert narrower().bytes(mixture) == compiled.report.totals["bytes_kept"]
