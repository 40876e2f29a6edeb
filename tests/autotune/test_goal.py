from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsecc.autotune import metrics
from sparsecc.autotune.condition import Axis
from sparsecc.autotune.goal import Goal
from sparsecc.errors import RecipeError

LATENCY = Axis("latency_us", "lower")
NUMBERS = st.floats(1e-6, 1e9)
BOUNDS = {
    "latency": NUMBERS.flatmap(lambda n: st.sampled_from([f"<={n!r}{unit}" for unit in ("s", "ms", "us", "µs", " ms")])),
    "bytes": NUMBERS.flatmap(lambda n: st.sampled_from([f"<={n!r}{unit}" for unit in ("B", "kB", "KB", "MB", "GB", "KiB", "MiB", "GiB")])),
    **{name: st.floats(0, 1).map(lambda n: f">={n!r}") for name in ("cosine", "spearman", "nearest", "agreement")},
    "perplexity": st.floats(1, 1e5).flatmap(lambda n: st.sampled_from([f"<={n!r}", f"<={n!r}x"])),
    "cer": st.floats(1e-6, 9).flatmap(lambda n: st.sampled_from([f" <= {n!r}", f"<={n!r}x"])),
    "metric": st.floats(1e-6, 2).flatmap(lambda n: st.sampled_from([f">={n!r}", f">={n!r}x"])),
}
WORDS = st.lists(st.sampled_from(list(BOUNDS)), unique=True, min_size=1)
TEXTS = WORDS.flatmap(lambda words: st.tuples(*(BOUNDS[word].map(lambda bound, word=word: word + bound) for word in words)))
POINTS = st.fixed_dictionaries(
    {
        "latency_us": st.floats(1e-3, 1e9),
        "bytes": st.integers(1, 10**11).map(float),
        **{name: st.floats(-1, 1) for name in ("cosine", "spearman")},
        **{name: st.floats(0, 1) for name in ("nearest", "agreement")},
        "perplexity": st.floats(1, 1e9),
        "perplexity_ratio": st.floats(0.5, 1e9),
        **{name: st.floats(0, 20) for name in ("cer", "cer_ratio")},
        "metric": st.floats(-1, 2),
    }
)


def test_every_metric_is_in_the_round_trips() -> None:
    assert set(BOUNDS) == {"latency", "bytes", "metric", *metrics.names()}


@given(TEXTS, st.booleans())
def test_a_goal_as_text_is_read_back(parts: tuple[str, ...], pareto: bool) -> None:
    goal = Goal.parse([*parts, *(["pareto"] if pareto else [])], "module:function")
    assert Goal.parse(str(goal), "module:function") == goal
    assert Goal.parse(goal) is goal


@given(TEXTS, st.lists(POINTS, min_size=1, max_size=4))
def test_the_nearest_goal_holds_and_can_be_read(parts: tuple[str, ...], points: list[dict[str, float]]) -> None:
    goal = Goal.parse(parts, "module:function")
    nearest = goal.nearest(points)
    if nearest is None:  # a value that no bound can be: -0.3
        assert all(min(point.values()) <= 0 for point in points)
        return
    assert any(nearest.met(point) for point in points)
    assert Goal.parse(str(nearest), "module:function") == nearest
    assert [condition.word for condition in nearest.conditions] == [condition.word for condition in goal.conditions]
    if any(goal.met(point) for point in points):
        assert nearest == goal


@given(TEXTS, POINTS)
def test_met_misses_and_violation_agree(parts: tuple[str, ...], point: dict[str, float]) -> None:
    goal = Goal.parse(parts, "module:function")
    assert goal.met(point) == (not goal.misses(point)) == (goal.violation(point) == 0)


def test_units_become_microseconds_and_bytes() -> None:
    texts = {
        "latency<=0.5s": 5e5,
        "latency<=12ms": 12e3,
        "latency<=7µs": 7,
        "latency<=7μs": 7,
        "bytes<=40MB": 40e6,
        "bytes<=1.5 GiB": 1.5 * 2**30,
    }
    assert {text: Goal.parse(text).conditions[0].bound for text in texts} == texts
    assert str(Goal.parse(" latency <= 12.0 ms , bytes<=3e2KB")) == "latency<=12ms,bytes<=300kB"


@pytest.mark.parametrize(
    ("text", "metric", "objective"),
    [
        ("cosine>=0.99", None, (LATENCY,)),
        ("latency<=12ms", None, (Axis("cosine", "higher"),)),
        ("bytes<=40MB", "spearman", (Axis("spearman", "higher"),)),
        ("latency<=12ms", "a:b", (Axis("metric", "higher"),)),
        ("latency<=12ms", "cer", (Axis("cer", "lower"),)),
        ("latency<=12ms,bytes<=1MB", None, (Axis("cosine", "higher"),)),
        ("latency<=12ms,cosine>=0.99", None, (LATENCY,)),
        ("latency<=12ms,cosine>=0.99", "a:b", (Axis("metric", "higher"),)),
        ("bytes<=1MB,perplexity<=1.1x", None, (LATENCY,)),
        ("cosine>=0.9", "a:b", (LATENCY,)),
        ("pareto", None, (LATENCY, Axis("cosine", "higher"))),
        ("pareto,perplexity<=1.1x", None, (LATENCY, Axis("perplexity_ratio", "lower"))),
        ("pareto,cosine>=0.9", "a:b", (LATENCY, Axis("metric", "higher"))),
    ],
)
def test_what_is_not_bounded_is_optimized(text: str, metric: str | None, objective: tuple[Axis, ...]) -> None:
    assert Goal.parse(text, metric).objective == objective


def test_what_has_to_be_measured() -> None:
    assert Goal.parse("latency<=1ms").qualities == ("cosine",)
    assert Goal.parse("nearest>=0.9,spearman>=0.9").qualities == ("nearest", "spearman")
    assert Goal.parse("nearest>=0.9", "a:b").qualities == ("metric", "nearest")


def test_the_word_metric_stands_for_the_metric_that_is_named() -> None:
    assert Goal.parse("metric>=0.9", "spearman") == Goal.parse("spearman>=0.9", "spearman")
    assert Goal.parse("metric>=0.9", "a:b").conditions[0].relative
    assert Goal.parse("metric>=0.9", print).function is print
    with pytest.raises(
        RecipeError, match=r"^goal: metric>=0\.9 needs a metric; name a function as module:function, or one of: agreement, "
    ):
        Goal.parse("metric>=0.9")
    with pytest.raises(RecipeError, match=r"^autotune\.metrics: no 'sperman'; did you mean 'spearman'"):
        Goal.parse("pareto", "sperman")


def test_mappings() -> None:
    assert str(Goal.parse({"latency": "12ms", "cosine": 0.99, "pareto": True})) == "pareto,latency<=12ms,cosine>=0.99"
    assert str(Goal.parse({"perplexity": "1.02x", "pareto": False})) == "perplexity<=1.02x"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "asks for nothing; write conditions as latency<=12ms or cosine>=0.99, joined by commas, or pareto"),
        ((), "asks for nothing"),
        ("latncy<=12ms", "no 'latncy'; did you mean 'latency'?"),
        ("cosin", "no 'cosin'; did you mean 'cosine'?"),
        ("latency<=12", "latency: '12' has no unit; there are: s, ms, us"),
        ("latency<=12parsec", "latency: no unit 'parsec'; there are: s, ms, us"),
        ("bytes<=40Mb", "bytes: no unit 'Mb'; there are: B, kB, MB, GB, KiB, MiB, GiB"),
        ("cosine>=0.9ms", "cosine: no unit 'ms'; it takes a number alone"),
        ("cosine>=0.9x", "cosine: no unit 'x'; it takes a number alone"),
        ("perplexity<=2ms", "perplexity: no unit 'ms'; there are: x"),
        *((f"cosine>={text}", f"cosine: '{text}' is no number that is finite and not") for text in ("nan", "-0.1", "inf", "1e999", "")),
        ("latency<=-3ms", "latency: '-3ms' is no number that is finite and not negative; write it as 12s"),
        ("latency<=0ms", "latency<=0ms says nothing; give a number above zero"),
        ("metric>=0", "metric>=0 says nothing"),
        ("cer<=0x", "cer<=0x says nothing"),
        ("latency<=5ms,latency>=6ms", "latency<=5ms and latency>=6ms contradict each other; bound latency once"),
        ("latency<=5ms,latency<=6ms", "latency is bounded twice, by latency<=5ms and latency<=6ms"),
        ("perplexity<=5,perplexity<=1.1x", "perplexity is bounded twice"),
        ("cosine>=1.2", "cosine>=1.2 cannot be met: cosine is 1 at best"),
        ("perplexity<=0.9", "perplexity<=0.9 cannot be met: perplexity is 1 at best"),
        ("latency>=3ms", "latency>=3ms: latency is better when lower; write latency<=3ms"),
        ("cosine<=0.9", "cosine<=0.9: cosine is better when higher; write cosine>=0.9"),
        ("cer>=0.1", "cer>=0.1: cer is better when lower"),
        ("cosine=0.9", "'cosine=0.9' is no condition; write conditions as"),
        ("cosine", "'cosine' is no condition"),
        ("cosine>=0.9,", "an empty condition"),
        ("pareto,pareto", "pareto stands twice"),
        ("pareto>=1", "pareto takes no bound"),
        ("pareto cosine>=0.9", "'pareto cosine>=0.9' takes no bound"),
        ({"cosine": None}, "cosine: None is no bound"),
        ({"cosine": True}, "cosine: True is no bound"),
        ({"cosine": math.nan}, "cosine: 'nan' is no number"),
        ({"latency": 12}, "latency: '12' has no unit"),
        ({"cosin": 0.9}, "no 'cosin'; did you mean 'cosine'?"),
        ({"pareto": 3}, "pareto takes no bound"),
        (5, "5 is no goal"),
        ([5], "[5] is no goal"),
    ],
)  # fmt: skip
def test_bad_goals_are_refused_in_one_line(given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=f"^goal: {re.escape(message)}") as caught:
        Goal.parse(given, "module:function")
    assert "\n" not in str(caught.value)


def test_misses_say_by_how_much() -> None:
    goal = Goal.parse("latency<=10ms,bytes<=40MB,cosine>=0.99,perplexity<=1.02x")
    measured = {"latency_us": 12e3, "bytes": 39e6, "cosine": 0.98, "perplexity_ratio": 1.05}
    latency, cosine, perplexity = goal.misses(measured)
    assert (latency.condition.word, latency.value, latency.by) == ("latency", 12e3, pytest.approx(2e3))
    assert [miss.violation for miss in (latency, cosine, perplexity)] == pytest.approx([0.2, 1.0, 1.5])
    assert goal.violation(measured) == pytest.approx(2.7)
    assert str(latency) == "latency<=10ms is missed: 12ms"
    assert str(perplexity) == "perplexity<=1.02x is missed: 1.05x"
    assert str(goal.loosened(measured)) == "latency<=12ms,bytes<=40MB,cosine>=0.98,perplexity<=1.05x"
    with pytest.raises(KeyError, match="cosine"):
        goal.met({"latency_us": 1.0, "bytes": 1})


def test_nothing_measured_meets_nothing() -> None:
    goal = Goal.parse("latency<=10ms,cosine>=0.99")
    broken = {"latency_us": math.inf, "cosine": math.nan}
    assert goal.violation(broken) == math.inf and len(goal.misses(broken)) == 2
    assert goal.loosened(broken) is None and goal.nearest([broken]) is None and goal.nearest([]) is None
    assert goal.nearest([broken, {"latency_us": 3e3, "cosine": 0.98765}]) == Goal.parse("latency<=10ms,cosine>=0.987")


def test_a_bound_that_is_perfect_can_be_missed() -> None:
    goal = Goal.parse("cosine>=1")
    assert goal.violation({"cosine": 0.999}) == pytest.approx(1.0)
    assert goal.met({"cosine": 1.0})


def test_what_is_lost_is_of_quality_alone() -> None:
    goal = Goal.parse("latency<=12ms,cosine>=0.99")
    assert goal.lost({"latency_us": 9e9, "cosine": 0.995}) == pytest.approx(0.5)
    assert goal.lost({"latency_us": 1.0, "cosine": 0.97}) == pytest.approx(3.0)
    assert goal.lost({"latency_us": 1.0, "cosine": float("nan")}) == float("inf")
    assert Goal.parse("latency<=12ms").lost({"latency_us": 1.0}) == 0
    assert Goal.parse("perplexity<=20").lost({"perplexity": 18.0}) == pytest.approx(17 / 19)  # 1 is perfect
    assert Goal.parse("perplexity<=1.1x,cosine>=0.99").lost({"perplexity_ratio": 1.05, "cosine": 0.998}) == pytest.approx(0.5)


def test_a_front_is_of_time_and_the_quality_that_counts() -> None:
    models = [
        (10.0, {"cosine": 1.0}),
        (4.0, {"cosine": 0.98}),
        (5.0, {"cosine": 0.97}),
        (3.0, {"cosine": float("nan")}),
        (2.0, {}),
        (6.0, {"cosine": 0.99}),
    ]
    assert Goal.parse("pareto").front(models) == [1, 5, 0]
    assert Goal.parse("pareto,cosine>=0.985").front(models[:2] + models[5:]) == [2, 0]
    perplexities = [(3.0, {"perplexity": 30.0}), (1.0, {"perplexity": 31.0}), (2.0, {"perplexity": 33.0})]
    assert Goal.parse("pareto", "perplexity").front(perplexities) == [1, 0]


@pytest.mark.parametrize(
    ("goal", "levels"),
    [
        ("pareto", ["cosine>=0.99", "cosine>=0.9"]),
        ("pareto,perplexity<=2x", ["perplexity<=1.01x", "perplexity<=1.1x"]),
    ],
)
def test_levels_of_quality(goal: str, levels: list[str]) -> None:
    assert [str(one) for one in Goal.parse(goal).levels((0.01, 0.1))] == levels


def test_levels_of_a_users_function_are_parts_of_what_the_dense_model_has() -> None:
    assert [str(one) for one in Goal.parse("pareto", "tests.module:function").levels((0.01,))] == ["metric>=0.99"]
