"""sparsecc tune --goal, on a file, end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest

import sparsecc
from sparsecc.autotune import tune
from sparsecc.autotune.account import MODEL
from sparsecc.autotune.rungs import Rung

SHAPE = ("--input-shape", "x:12,64")


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(1).standard_normal((12 * 8, 64)).astype(np.float32))
    return path


@pytest.fixture(autouse=True)
def _few_rungs(monkeypatch):
    monkeypatch.setattr(tune, "ladder_of", lambda trials: (Rung.parse("int8"), Rung.parse("4x1 50%")))


def test_from_a_goal_to_a_model(call, model, samples, tmp_path):
    out = tmp_path / "found"
    command = ("tune", model, "--goal", "bytes<=20kB,cosine>=0.5", "--minutes", 2, "--calib", samples, "--out", out, "--threads", 1, *SHAPE)
    code, text, errors = call(*command, "--no-recover")
    assert code == 0, errors
    assert text.splitlines()[0].startswith("bytes<=20kB,cosine>=0.5: met, ")
    assert json.loads((out / "search.json").read_text())["met"]
    assert errors == [f"{out}: search.html shows all models, {MODEL} is the one that was chosen"]
    x = np.load(samples)["x"][:12]
    assert sparsecc.load(out / MODEL, threads=1)(x).shape[0] == 12
    assert call("compile", model, tmp_path / "again.sparsecc", "--recipe", out / "recipe.yaml", "--calib", samples, *SHAPE)[0] == 0


def test_a_goal_that_is_missed_says_which_one_holds(call, model, samples, tmp_path):
    command = ("tune", model, "--goal", "bytes<=1kB", "--minutes", 2, "--calib", samples, "--out", tmp_path / "f", "--threads", 1, *SHAPE)
    code, text, errors = call(*command, "--no-recover")
    assert code == 1 and "met by none of" in text and "the nearest goal that one meets is bytes<=" in text
    assert errors == [f"{tmp_path / 'f'}: search.html shows all models"]
    assert not (tmp_path / "f" / MODEL).exists()


def test_the_model_that_was_chosen_has_learnt(call, model, samples, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "ladder_of", lambda trials: (Rung.parse("unstructured 80%"),))
    out = tmp_path / "found"
    command = ("tune", model, "--goal", "bytes<=24kB", "--minutes", 2, "--calib", samples, "--out", out, "--threads", 1, *SHAPE)
    code, text, errors = call(*command)
    assert code == 0, errors
    assert "recovered" in text.splitlines()[0] and "recover:" in (out / "recipe.yaml").read_text()
    assert "checkpoint" not in (out / "recipe.yaml").read_text()
    best = next(row for row in json.loads((out / "search.json").read_text())["rows"] if row["best"])
    assert best["recovered"] and "best, recovered" in (out / "search.html").read_text()
    assert (out / MODEL).exists()
