from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import sparsecc
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.judge import Judge, Quality, parted, split
from sparsecc.autotune.metrics.base import Value
from sparsecc.autotune.models import HostModel
from sparsecc.calibration.samples import Labelled, labelled_of
from sparsecc.errors import InputError, MetricError
from sparsecc.graph.base import TensorSpec
from sparsecc.graph.onnx.graph import OnnxGraph
from tests.autotune.metrics.outputs import answers
from tests.graph.onnx_models import mlp

SPECS = (TensorSpec("x", ("n", 4), "float32"),)
ROWS = np.random.default_rng(0).normal(0, 1, (12, 4)).astype(np.float32)


class Function:
    """A model of one output that is a function of one input."""

    def __init__(self, of: Callable[[np.ndarray], Any]) -> None:
        self.of, self.calls = of, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.flat(args)[0]

    def flat(self, values: Sequence[Any]) -> list[Any]:
        self.calls += 1
        return [self.of(values[0])]


def held(arrays: Mapping[str, np.ndarray] | None = None, specs: Sequence[TensorSpec] = SPECS) -> list[Labelled]:
    return labelled_of({"x": ROWS} if arrays is None else arrays, specs)


DENSE, DOUBLED, OFF = Function(lambda x: x), Function(lambda x: 2 * x), Function(lambda x: x + np.eye(1, 4))


def average(model: Any) -> float:
    return float(np.mean(model(np.ones((1, 4), np.float32))))


def test_the_metrics_of_the_goal_and_cosine() -> None:
    judge = Judge(Goal.parse("spearman>=0.9,metric>=0.5", average), DENSE, SPECS, held())
    assert set(judge.dense.values) == {"cosine", "spearman", "metric"}
    assert judge.dense.measured() == {"cosine": 1.0, "spearman": 1.0, "metric": 1.0}
    doubled, off = judge.quality(DOUBLED), judge.quality(OFF)
    assert doubled.measured() == {"cosine": pytest.approx(1), "spearman": pytest.approx(1), "metric": 2.0}
    units = [(x + np.eye(4)[0]) / np.linalg.norm(x + np.eye(4)[0]) for x in ROWS]
    expected = np.mean([unit @ x / np.linalg.norm(x) for unit, x in zip(units, ROWS, strict=True)])
    assert off.measured()["cosine"] == pytest.approx(expected, abs=1e-6)
    assert off.measured()["metric"] == pytest.approx(1.25)
    assert off.values["cosine"].spread is not None and off.values["cosine"].spread > 0
    assert judge.quality(OFF) == off
    assert judge.noise == {"metric": 0.0}


def test_the_dense_model_answers_once() -> None:
    dense = Function(lambda x: x)
    judge = Judge(Goal.parse("nearest>=0.9"), dense, SPECS, held())
    judge.quality(DOUBLED)
    assert dense.calls == len(ROWS)


def test_a_goal_reads_what_was_measured() -> None:
    goal = Goal.parse("latency<=1ms,cosine>=0.999")
    judge = Judge(goal, DENSE, SPECS, held())
    assert goal.met({"latency_us": 900.0, **judge.quality(DOUBLED).measured()})
    [miss] = goal.misses({"latency_us": 900.0, **judge.quality(OFF).measured()})
    assert miss.condition.word == "cosine"


def test_values_beside_the_dense_models_own() -> None:
    quality = Quality({"perplexity": Value(6.0, None, 5.0), "cer": Value(0.1, None, 0.0)})
    assert quality.measured() == {"perplexity": 6.0, "perplexity_ratio": 1.2, "cer": 0.1}


def test_references_reach_metrics_and_no_model() -> None:
    scores, sample = answers(6)
    noise = np.random.default_rng(1).normal(0, 2, scores.shape).astype(np.float32)
    arrays = {"x": scores, "reference:labels": sample.references["labels"], "reference:tokens": sample.references["tokens"]}
    specs = (TensorSpec("x", (2, 12, 7), "float32"),)
    judge = Judge(Goal.parse("cer<=0.5,perplexity<=1.5x"), Function(lambda x: x), specs, held(arrays, specs))
    found = judge.quality(Function(lambda x: x + noise[: len(x)]))
    assert found.values["cer"].value > judge.dense.values["cer"].value > 0
    assert found.measured()["perplexity_ratio"] > 1 == judge.dense.measured()["perplexity_ratio"]


@pytest.mark.parametrize(
    ("goal", "arrays", "dense", "message"),
    [
        ("cosine>=0.9", {"x": np.ones((3, 4), np.float32)}, DENSE, "the 3 held-out items are all the same, so that they cannot tell"),
        ("cosine>=0.9", None, Function(np.zeros_like), "the dense model gives the same outputs for all 12 held-out items"),
        ("spearman>=0.9", {"x": ROWS[:2]}, DENSE, "goal: spearman: compares items with each other, and needs 3 of them at least, not 2"),
        ("spearman>=0.9", {"x": np.eye(4, dtype=np.float32)}, DENSE, "goal: spearman: every two of the 4 items are equally similar"),
        ("agreement>=0.9", {"x": np.sort(ROWS)}, DENSE, "goal: agreement: the dense model answers 3 in all 12 items"),
        ("cer<=0.1", None, DENSE, "goal: cer: needs the right characters; add an array 'reference:labels' to the samples"),
        ("perplexity<=1.1x", None, DENSE, r"goal: perplexity: the first output of floats has the shape \[1, 4\]"),
        ("latency<=1ms", None, Function(lambda x: x.astype(np.int64)), "goal: cosine: no output of the model holds floats"),
    ],
)  # fmt: skip
def test_samples_that_cannot_judge(goal: str, arrays: dict[str, np.ndarray] | None, dense: Function, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Judge(Goal.parse(goal), dense, SPECS, held(arrays))


def test_a_bound_beside_a_dense_model_without_mistakes() -> None:
    _, sample = answers(4)
    perfect = np.eye(7, dtype=np.float32)[sample.references["tokens"]]
    arrays = {"x": perfect, "reference:labels": sample.references["labels"]}
    specs = (TensorSpec("x", ("n", 12, 7), "float32"),)
    with pytest.raises(InputError, match=r"^goal: cer<=1\.1x: cer of the dense model is 0, .*write a bound without x"):
        Judge(Goal.parse("cer<=1.1x"), DENSE, specs, held(arrays, specs))
    assert Judge(Goal.parse("cer<=0.1"), DENSE, specs, held(arrays, specs)).dense.measured()["cer"] == 0


def test_no_samples() -> None:
    with pytest.raises(InputError, match=r"^no held-out samples to judge models by$"):
        Judge(Goal.parse("pareto"), DENSE, SPECS, [])


def test_cosine_is_left_out_where_only_others_are_asked() -> None:
    judge = Judge(Goal.parse("metric>=0.5", lambda model: 1.0), Function(lambda x: (10 * x).astype(np.int64)), SPECS, held())
    assert judge.left_out == {"cosine": "no output of the model holds floats"}
    assert set(judge.quality(DENSE).values) == {"metric"}


def test_the_functions_failure_is_the_judges() -> None:
    judge = Judge(Goal.parse("metric>=0.5", average), DENSE, SPECS, held())
    with pytest.raises(MetricError, match="average: returned nan"):
        judge.quality(Function(lambda x: x * np.nan))


def test_graphs_and_compiled_models_are_judged_alike() -> None:
    graph = OnnxGraph.from_proto(mlp())
    rows = np.random.default_rng(5).normal(0, 1, (6, 32)).astype(np.float32)
    dense = HostModel(graph)
    assert isinstance(dense(torch.from_numpy(rows)), torch.Tensor) and isinstance(dense(x=rows), np.ndarray)
    assert np.array_equal(dense(torch.from_numpy(rows)).numpy(), dense(rows))
    samples = labelled_of({"x": rows}, graph.inputs)
    judge = Judge(Goal.parse("nearest>=0.9", lambda model: float(np.abs(model(rows)).mean())), dense, graph.inputs, samples)
    compiled = sparsecc.compile(mlp(), (rows[:1],), threads=1)
    quality = judge.quality(compiled).measured()
    assert quality["cosine"] == pytest.approx(1, abs=1e-6) and quality["metric"] == pytest.approx(1, abs=1e-4)
    assert quality["nearest"] == 1


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 9, 100, 257])
@pytest.mark.parametrize("every", [2, 4, 10])
def test_samples_are_split_evenly_and_always_alike(count: int, every: int) -> None:
    calibration, out = split(range(count), every)
    assert sorted([*calibration, *out]) == list(range(count)) and calibration and out
    assert split(range(count), every) == (calibration, out)
    assert abs(len(out) - count / every) <= 1 + 0.13 * count / every
    gaps = np.diff([*out, count])
    assert max(gaps) <= 2 * every


def test_samples_in_a_repeating_order_are_all_held_out() -> None:
    for classes in (2, 3, 4, 5, 8, 10):
        _, out = split([i % classes for i in range(400)])
        assert min(out.count(i) for i in range(classes)) >= 0.6 * len(out) / classes


@pytest.mark.parametrize(("count", "there"), [(0, "there are no samples"), (1, "there is one sample")])
def test_too_few_samples_to_split(count: int, there: str) -> None:
    with pytest.raises(InputError, match=f"^{there}, two are needed at least: what a model is judged by must not"):
        split(range(count))
    with pytest.raises(ValueError, match="every: 1 leaves nothing"):
        split(range(9), 1)


def test_samples_may_be_held_out_by_hand() -> None:
    mine, theirs = held({"x": ROWS[:3]}), {"x": ROWS[3:5], "reference:text": np.array(["a", "b"])}
    choosing, judging = parted(mine, theirs, SPECS)
    assert choosing == mine and [one.references["text"].tolist() for one in judging] == [["a"], ["b"]]
    assert [len(part) for part in parted(held(), None, SPECS)] == [len(part) for part in split(held())]
    assert len(parted(mine, {"x": ROWS[2:4]}, SPECS)[1]) == 2  # one of them is new
    with pytest.raises(InputError, match="held_out: all its samples are among those of the calibration"):
        parted(mine, {"x": ROWS[1:3]}, SPECS)
    with pytest.raises(InputError, match="held_out: input 'x' is float64"):
        parted(mine, {"x": ROWS.astype(np.float64)}, SPECS)
