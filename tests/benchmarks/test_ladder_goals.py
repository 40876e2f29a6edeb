"""Verdicts of the rows that search for a goal, and inputs of models that nobody tuned for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.ladder import duel, pictures, spearman, strangers
from benchmarks.ladder.duel import Field
from benchmarks.ladder.models_of_others import STRANGERS
from benchmarks.peers import Workload

BEST = {
    "recipe": {"passes": [{"quantize": {"targets": ["a"], "dtype": "int8"}}]},
    "quality": 0.991,
    "times": {"median": 1.5, "p10": 1.4, "p90": 1.6},
    "ms": 2.0,
    "peer_ms": 3.0,
}


def test_spearman_is_reached_or_missed() -> None:
    assert spearman.verdict(BEST, "openvino int8 f32") == ("1.50 times openvino int8 f32, spearman 0.9910", True)
    assert not spearman.verdict(BEST | {"times": {"median": 1.3}}, "x")[1] and not spearman.verdict(None, "x")[1]
    about = {
        "threads": 2,
        "minutes": 60,
        "seed": 0,
        "held_out": 8,
        "models": 3,
        "why": "met",
        "peer": "openvino int8 f32",
        "peer_quality": 0.98,
    }
    lines = spearman.markdown(about | {"best": BEST}).splitlines()
    assert lines[-2:] == ["| sparsecc | 2.00 | 0.9910 | quantize int8 on 1 |", "| openvino int8 f32 | 3.00 | 0.9800 |  |"]
    assert len(spearman.markdown(about | {"best": None}).splitlines()) == 1


def test_four_of_six_have_to_be_faster() -> None:
    faster = {"name": "m", "kind": "encoder", "package": "p==1", "metric": "cosine", "peer": "o", "peer_quality": 0.99, "best": BEST}
    faster |= {"faster": True, "reason": ""}
    slower = faster | {"faster": False, "best": None, "reason": "met by none"}
    assert strangers.verdict([faster] * 4 + [slower] * 2) == ("4 of 6 faster at no worse metric, 2 with the reason", True)
    assert not strangers.verdict([faster] * 3 + [slower] * 3)[1]
    document = {"threads": 2, "minutes": 20, "seed": 0, "held_out": 8, "rows": [faster, slower], "outcome": {"measured": "1 of 2"}}
    lines = strangers.markdown(document).splitlines()[-2:]
    assert lines[0] == "| p==1: m | encoder | cosine | 0.9900 | 3.00 | 0.9910 | 2.00 | 1.50 | quantize int8 on 1 |"
    assert lines[1].endswith("|  |  |  |  | met by none |")


class Answering:
    """Stands for a process whose engine is off by a factor in every second sample."""

    def answers(self, name: str, samples: list[dict[str, np.ndarray]]) -> list[list[np.ndarray]]:
        return [[sample["x"] * np.array([[1, 1 - 2 * (i % 2)]])] for i, sample in enumerate(samples)]


def test_an_engine_is_judged_by_the_metric_of_the_goal(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [{"x": np.array([[1.0, i + 1]], np.float32)} for i in range(4)]
    dense = [[sample["x"]] for sample in held]
    process: Any = Answering()
    for metric, expected in (("cosine", np.mean([1, -3 / 5, 1, -15 / 17])), ("agreement", 0.5)):
        field = Field(Workload("m", tmp_path / "m.onnx", held[0]), [], held, metric, False, 1)
        monkeypatch.setitem(field.__dict__, "_dense", dense)
        assert field.quality(process, "other") == pytest.approx(expected)


def test_why_a_search_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Any = SimpleNamespace(left_out={"rung a": duel._LATE, "rung b": duel._LATE, "spearman": "too few"})
    report = SimpleNamespace(
        verdict="missed", notes=["stopped", *(f"{name} is not measured: {why}" for name, why in found.left_out.items())]
    )
    monkeypatch.setattr(duel.account, "report", lambda _: report)
    assert duel.why(found) == "missed; stopped; spearman is not measured: too few; 2 rungs were left out for lack of time"


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda stranger: stranger.name)
def test_inputs_of_strangers_are_drawn_and_differ(stranger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_PHOTOS", {False: ("china.jpg",), True: ("flower.jpg",)})  # those that need no download
    inputs, again, others = (list(stranger.inputs(3, held_out)) for held_out in (False, False, True))
    contents = [next(iter(one.values())) for one in (*inputs, *others)]
    assert len({(value.shape, value.dtype) for value in contents}) == 1 and all(np.isfinite(value).all() for value in contents)
    assert len({value.tobytes() for value in contents}) == 6
    assert all(
        np.array_equal(a, b) for one, other in zip(inputs, again, strict=True) for a, b in zip(one.values(), other.values(), strict=True)
    )
