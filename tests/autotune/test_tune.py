"""A whole search, on a model that is small enough to be compiled a dozen times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sparsecc
from sparsecc.api.trials import Trials
from sparsecc.autotune import account, maker, recovering, tune
from sparsecc.autotune.budget import Shares
from sparsecc.autotune.condition import BYTES_KEPT, LATENCY_KEY
from sparsecc.autotune.tune import Found
from sparsecc.calibration.context import Progress
from sparsecc.errors import InputError, UserError

RUNGS = ("int8", "unstructured 80%", "4x1 50%")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32)).eval()


def samples(count: int = 12) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(32, 64, generator=generator),) for _ in range(count)]


def found(folder: Path, goal: str, **options: Any) -> Found:
    given: dict[str, Any] = {"calibration": samples(), "minutes": 2.0, "rungs": RUNGS, "threads": 1, "recover": False, **options}
    return tune.search(model(), samples(1)[0], goal=goal, folder=folder, **given)


def test_fewer_bytes_and_what_they_cost(tmp_path: Path) -> None:
    dense = 4 * (64 * 128 + 128 * 128 + 128 * 32)
    result = found(tmp_path, f"bytes<={dense // 2}B")
    assert result.best is not None and result.best.measured[BYTES_KEPT] <= dense // 2
    assert result.points[0].recipe == {"passes": []} and result.points[0].error == 0.0
    assert 0.5 < result.best.measured["cosine"] < 1
    compiled = sparsecc.compile(model(), samples(1)[0], recipe=result.best.recipe, calibration=samples(), threads=1)
    assert sum(site.bytes_kept for site in compiled.report.sites) == result.best.measured[BYTES_KEPT]


def test_a_second_run_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = found(tmp_path, "cosine>=0.98")
    assert first.best is not None and first.best.measured["cosine"] >= 0.98
    monkeypatch.setattr(maker.Maker, "_measured", None)
    monkeypatch.setattr(Trials, "rewritten", None)
    again = found(tmp_path, "cosine>=0.98")
    assert [point.recipe for point in again.points] == [point.recipe for point in first.points]
    assert [point.measured for point in again.points] == [point.measured for point in first.points]


def test_a_goal_that_no_model_meets(tmp_path: Path) -> None:
    result = found(tmp_path, "latency<=0.000001ms,cosine>=0.9")
    assert result.best is None and result.nearest is not None
    assert any(result.nearest.met(point.measured) for point in result.points)
    assert all(point.measured[LATENCY_KEY] > 0 and np.isfinite(point.predicted_ms) for point in result.points)


def test_what_cannot_be_searched(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="minutes: 0 is no time to search in"):
        found(tmp_path, "cosine>=0.9", minutes=0)
    with pytest.raises(InputError, match="there is one sample, two are needed at least"):
        tune.search(model(), samples(1)[0], goal="cosine>=0.9", calibration=samples(1), folder=tmp_path)
    with pytest.raises(UserError, match="rung: 'int9' is none"):
        found(tmp_path, "cosine>=0.9", rungs=("int9",))


def test_samples_to_judge_by_may_be_given(tmp_path: Path) -> None:
    every = samples()
    result = found(tmp_path, "cosine>=0.9", calibration=every[:8], held_out=every[8:], rungs=("int8",))
    assert len(result.samples) == 8 and result.best is not None
    with pytest.raises(InputError, match="held_out: all its samples are among those of the calibration"):
        found(tmp_path, "cosine>=0.9", calibration=every, held_out=every[8:])


def test_rungs_that_there_was_no_time_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "ALONE", Shares(0.0, 0.5, 1.0))
    result = found(tmp_path, "cosine>=0.9")
    assert result.left_out == {"rung 4x1 50%": "the time was over", "rung unstructured 80%": "the time was over"}
    targets = {str(point.recipe) for point in result.points}
    assert any("int8" in one for one in targets) and not any("prune" in one for one in targets)


def test_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(UserError, match="holds other files; name a folder that is new, or that a search has made"):
        found(tmp_path, "cosine>=0.9")
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_a_model_with_a_free_batch_takes_the_first_sample(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path, exported = tmp_path / "m.onnx", {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    torch.onnx.export(model(), (torch.randn(4, 64),), str(path), input_names=["x"], **exported)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    given = [{"x": x.numpy()} for (x,) in samples(7)] + [{"x": samples(1)[0][0].numpy()[:5]}]
    result = tune.search(
        path, goal="cosine>=0.9", calibration=given, folder=tmp_path / "f", minutes=2.0, rungs=("int8",), threads=1, recover=False
    )
    assert result.best is not None


def test_the_one_way_in(tmp_path: Path) -> None:
    given = {"goal": "cosine>=0.9", "calibration": samples()}
    with pytest.raises(UserError, match="folder: name one for what is measured and found"):
        sparsecc.tune(model(), samples(1)[0], **given)
    with pytest.raises(UserError, match="recipe: goes with kernels, not with a goal"):
        sparsecc.tune(model(), samples(1)[0], folder=tmp_path, recipe="pack", **given)
    with pytest.raises(UserError, match="records: name a file for what is measured, or give a goal"):
        sparsecc.tune(model(), samples(1)[0])
    with pytest.raises(UserError, match="recover: goes with goal"):
        sparsecc.tune(model(), samples(1)[0], recover=False, records=tmp_path / "r.db")
    with pytest.raises(UserError, match="metric: goes with goal"):
        sparsecc.tune(model(), samples(1)[0], metric="spearman", records=tmp_path / "r.db")
    with pytest.raises(UserError, match="held_out: goes with goal"):
        sparsecc.tune(model(), samples(1)[0], held_out=samples(1), records=tmp_path / "r.db")


class Blocks(nn.Module):
    """Two Mlps with a residual around each; of the second the neurons matter less."""

    def __init__(self) -> None:
        super().__init__()
        self.up1, self.down1, self.up2, self.down2 = nn.Linear(64, 256), nn.Linear(256, 64), nn.Linear(64, 256), nn.Linear(256, 64)
        with torch.no_grad():
            self.up2.weight[128:] *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.down1(torch.relu(self.up1(x)))
        return x + self.down2(torch.relu(self.up2(x)))


def test_neurons_go_where_they_matter_least(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, bytes_dense = Blocks().eval(), 4 * 4 * 64 * 256
    result = tune.search(
        whole,
        samples(1)[0],
        goal=f"bytes<={bytes_dense * 3 // 4}B",
        calibration=samples(),
        folder=tmp_path,
        minutes=2.0,
        recover=False,
        rungs=("narrow 25%", "narrow 50%"),
        threads=1,
    )
    assert result.best is not None
    [step] = result.best.recipe["passes"]
    assert step == {"structured": {"targets": ["mlp_1"], "neurons": 0.5, "round_to": 16, "criterion": "obs"}}
    assert result.best.measured[BYTES_KEPT] == bytes_dense * 3 // 4
    compiled = sparsecc.compile(whole, samples(1)[0], recipe=result.best.recipe, calibration=samples(), threads=1)
    assert sum(site.bytes_kept for site in compiled.report.sites) == bytes_dense * 3 // 4


def test_a_model_without_neurons_or_heads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alone, options = nn.Linear(64, 64).eval(), {"folder": tmp_path, "minutes": 2.0, "threads": 1, "recover": False}
    result = tune.search(alone, samples(1)[0], goal="cosine>=0.9", calibration=samples(), rungs=("int8", "narrow 25%"), **options)
    assert result.left_out == {"rung narrow 25%": "no layer can be there"}
    assert result.best is not None and not any("structured" in str(point.recipe) for point in result.points)


def bytes_of(share: float) -> str:
    return f"bytes<={round(share * 4 * (64 * 128 + 128 * 128 + 128 * 32))}B"


def test_a_recovered_model_is_better_and_a_second_run_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "_MOST", 100)
    given: dict[str, Any] = {"rungs": ("unstructured 80%",), "recover": True}
    first = found(tmp_path, bytes_of(0.5), **given)
    assert first.best is not None and first.best.recovered and "recovery" not in first.left_out
    one_shot = [point for point in first.points if not point.recovered and not first.goal.misses(point.measured)]
    assert first.best.measured["cosine"] > max(point.measured["cosine"] for point in one_shot)
    assert first.best.measured[BYTES_KEPT] <= first.points[0].measured[BYTES_KEPT] / 2
    assert [step["recover"]["steps"] for step in first.best.recipe["passes"] if "recover" in step] == [100]
    monkeypatch.setattr(maker.Maker, "_measured", None)
    monkeypatch.setattr(Trials, "rewritten", None)
    again = found(tmp_path, bytes_of(0.5), **given)
    assert [point.recipe for point in again.points] == [point.recipe for point in first.points]
    page = account.report(first)
    assert page.verdict.endswith("MB, recovered") and "best, recovered" in str(page) and "best, recovered" in page.to_html()


def test_an_onnx_file_is_recovered_by_least_squares(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    torch.onnx.export(model(), samples(1)[0], str(path), input_names=["x"], dynamo=True)
    given = [{"x": x.numpy()} for (x,) in samples()]
    rungs = ("unstructured 80%",)
    result = tune.search(path, goal=bytes_of(0.5), calibration=given, folder=tmp_path / "f", minutes=2.0, rungs=rungs, threads=1)
    assert any(point.recovered for point in result.points), result.left_out
    methods = [step["recover"]["method"] for point in result.points for step in point.recipe["passes"] if "recover" in step]
    assert set(methods) == {"reconstruction"}


def test_an_interrupted_recovery_keeps_what_was_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovering, "_MOST", 100)

    def interrupt(now: Progress) -> None:
        if now.what == "distillation" and now.done == 50:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"rungs": ("unstructured 80%",), "recover": True}
    with pytest.raises(KeyboardInterrupt):
        found(tmp_path, bytes_of(0.5), progress=interrupt, **given)
    assert list((tmp_path / "recovered").iterdir())
    steps: list[int] = []
    result = found(tmp_path, bytes_of(0.5), progress=lambda now: steps.append(now.done) if now.what == "distillation" else None, **given)
    assert result.best is not None and result.best.recovered and steps[0] > 40
