from __future__ import annotations

import json

import numpy as np
import pytest


def test_a_table_json_a_page_and_a_picture(call, model, inputs, tmp_path):
    written = [tmp_path / name for name in ("s.json", "s.html", "s.png")]
    code, text, errors = call("sensitivity", model, "--calib", inputs, "--json", written[0], "--html", written[1], "--plot", written[2])
    assert (code, errors) == (0, [])
    assert "Sensitivity of in.onnx" in text and "fc2" in text and "knee" in text
    document = json.loads(written[0].read_text())
    assert document["levels"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    assert [site["name"] for site in document["sites"]] == ["fc1", "fc2"]
    assert all(len(site["errors"]) == 10 and site["errors"] == sorted(site["errors"]) for site in document["sites"])
    assert "<td>fc2</td>" in written[1].read_text() and "data:image/png;base64," in written[1].read_text()
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_the_error_of_the_last_layer_is_its_own(call, model, inputs, tmp_path):
    code, _, _ = call(
        "sensitivity", model, "--calib", inputs, "--targets", "fc2", "--level", 0.5, "--criterion", "wanda", "--pattern", "4x1",
        "--json", tmp_path / "s.json",
    )  # fmt: skip
    [site] = json.loads((tmp_path / "s.json").read_text())["sites"]
    assert code == 0
    assert site["errors"] == pytest.approx(site["layer_errors"], rel=1e-4)
    assert site["gain"] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--pattern", "2:4"], "pattern: 2:4 has one sparsity"),
        (["--criterion", "magic"], "criterion: no 'magic'"),
        (["--targets", "fc3"], "targets: 'fc3' matches no layer; did you mean"),
        (["--level", "1.5"], "levels: [1.5] are not sparsities"),
    ],
)
def test_what_cannot_be_asked_for(call, model, inputs, options, problem):
    code, _, [error] = call("sensitivity", model, "--calib", inputs, *options)
    assert code == 2 and problem in error


def test_inputs_are_needed_and_have_to_fit(call, model, tmp_path):
    code, _, [error] = call("sensitivity", model)
    assert code == 2 and "--calib" in error
    np.savez(tmp_path / "wrong.npz", y=np.zeros((3, 64), np.float32))
    code, _, [error] = call("sensitivity", model, "--calib", tmp_path / "wrong.npz")
    assert code == 2 and "the model has no input 'y'" in error


def test_files_may_not_overwrite_each_other(call, model, inputs, tmp_path):
    code, _, [error] = call("sensitivity", model, "--calib", inputs, "--json", tmp_path / "s", "--html", tmp_path / "s")
    assert code == 2 and "is named twice" in error


def test_when_no_layer_can_be_pruned_it_fails_and_says_why(call, model, inputs):
    code, text, [error] = call("sensitivity", model, "--calib", inputs, "--pattern", "5x5")
    assert code == 1 and "no layer could be pruned" in error
    assert "skipped: 96 rows (outputs) are no multiple of 5, 5x5 blocks need that (fc1)" in text
