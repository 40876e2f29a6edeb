from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsecc.autotune import account
from sparsecc.autotune.goal import Goal
from sparsecc.autotune.maker import Point
from sparsecc.autotune.tune import Found
from sparsecc.recipe import Recipe


def point(ms: float, cosine: float, passes: list[Any]) -> Point:
    measured = {"latency_us": 1e3 * ms, "bytes": 1e6 * ms, "cosine": cosine}
    return Point({"passes": passes}, measured, 2 * (1 - cosine), ms * 1.1)


DENSE = point(10.0, 1.0, [])
FAST = point(4.0, 0.97, [{"quantize": {"targets": ["a", "b"], "dtype": "int8"}}])
SLOW = point(6.0, 0.995, [{"prune": {"targets": ["a"], "pattern": "4x1", "sparsity": 0.5}}, {"pack": {"targets": ["a"]}}])


def found(goal: str, best: Point | None, nearest: str | None = None) -> Found:
    wanted = None if nearest is None else Goal.parse(nearest)
    return Found(
        Goal.parse(goal), "m<b>", "some CPU, 2 threads", (DENSE, FAST, SLOW), best, wanted, (FAST, SLOW, DENSE), "the time was over", 61.0
    )


def test_what_is_written(tmp_path: Path) -> None:
    made = account.write(found("cosine>=0.99", SLOW), tmp_path, "sparsecc tune m.onnx --goal 'cosine>=0.99'")
    assert made.verdict == "cosine>=0.99: met, 6.000 ms instead of 10.000, 1.67 times as fast as dense, cosine 0.995, 6.00 MB"
    assert Recipe.load(tmp_path / account.RECIPE) == Recipe.load(SLOW.recipe)
    assert sorted(path.name for path in (tmp_path / account.FRONT).iterdir()) == ["00-4.000ms.yaml", "01-6.000ms.yaml", "02-10.000ms.yaml"]
    assert yaml.safe_load((tmp_path / account.FRONT / "00-4.000ms.yaml").read_text()) == FAST.recipe
    data = json.loads((tmp_path / account.DATA).read_text())
    assert [row["best"] for row in data["rows"]] == [False, False, True] and data["met"] is True
    page = (tmp_path / account.PAGE).read_text()
    assert "m&lt;b&gt;" in page and "http" not in page and "prune{targets=[a],pattern=4x1,sparsity=0.5}" in page
    assert "data:image/png;base64," in page


def test_a_goal_that_is_missed(tmp_path: Path) -> None:
    made = account.write(found("latency<=3ms,cosine>=0.99", None, "latency<=6ms,cosine>=0.99"), tmp_path)
    said = "latency<=3ms,cosine>=0.99: met by none of 3 models; the nearest goal that one meets is latency<=6ms,cosine>=0.99"
    assert made.verdict == said and not made.met and not (tmp_path / account.RECIPE).exists()
    assert made.rows[1].misses == ("latency<=3ms is missed: 4ms", "cosine>=0.99 is missed: 0.97")


def test_dense_may_be_best() -> None:
    made = account.report(replace(found("cosine>=0.999", DENSE), left_out={"spearman": "there is one item"}))
    assert made.verdict == "cosine>=0.999: met by the model as it came; nothing that was tried is better"
    assert made.notes == ("stopped after 61 s: the time was over", "spearman is not measured: there is one item")
    lines = str(made).splitlines()
    assert lines[3].split() == ["10.000", "ms", "1.00x", "10.00", "MB", "cosine", "1", "best", "as", "it", "came"]


@pytest.mark.parametrize("steps", [SLOW.recipe, {"passes": [{"prune": {"targets": ["re:.*: x", "*y"], "sparsity": 0.1}}]}])
def test_yaml_is_read_back(steps: Any, tmp_path: Path) -> None:
    from sparsecc.recipe_yaml import read_yaml, yaml_text

    (tmp_path / "r.yaml").write_text(yaml_text(steps))
    assert read_yaml(tmp_path / "r.yaml") == steps


def test_the_whole_front_has_no_best(tmp_path: Path) -> None:
    (tmp_path / account.FRONT).mkdir()
    for old in (tmp_path / account.RECIPE, tmp_path / account.MODEL, tmp_path / account.FRONT / "00-1.000ms.yaml"):
        old.write_text("of another goal")
    made = account.write(found("pareto", None), tmp_path)
    assert made.met
    assert made.verdict == "pareto: 3 of 3 models are on the front, the fastest 2.50 times as fast as dense, cosine 0.97"
    assert not (tmp_path / account.RECIPE).exists() and not (tmp_path / account.MODEL).exists()
    assert len(list((tmp_path / account.FRONT).iterdir())) == 3
