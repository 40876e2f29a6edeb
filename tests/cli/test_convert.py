from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from sparsecc import api


def test_a_smaller_file_with_the_masked_models_outputs(call, model, recipe, tmp_path):
    out, report = tmp_path / "out.onnx", tmp_path / "r.json"
    code, text, errors = call("convert", model, out, "--recipe", recipe, "--input-shape", "x:2,64", "--check", "3", "--json", report)
    assert (code, errors) == (0, [])
    assert out.stat().st_size < 0.7 * model.stat().st_size
    data = json.loads(report.read_text())
    assert [site["format"] for site in data["sites"]] == ["block:4x1"] * 2
    assert all(site["output_error"] > 0 for site in data["sites"])
    assert data["check"]["max_rel"] < 1e-5
    assert "block:4x1" in text
    y = np.asarray(onnxruntime.InferenceSession(out).run(None, {"x": np.ones((2, 64), np.float32)})[0])
    assert y.shape == (2, 64) and np.isfinite(y).all()


def test_shapes_may_stay_free(call, model, recipe, tmp_path):
    code, _, errors = call("convert", model, tmp_path / "out.onnx", "-r", recipe)
    assert (code, errors) == (0, [])
    code, _, [error] = call("convert", model, tmp_path / "out2.onnx", "-r", recipe, "--check", "1")
    assert code == 2 and "input 'x' has no fixed size at axis 0" in error and "--input-shape x:1,64" in error
    assert not (tmp_path / "out2.onnx").exists()


def test_calibration_is_used_for_the_check(call, model, recipe, inputs, tmp_path):
    report = tmp_path / "r.json"
    code, _, _ = call("convert", model, tmp_path / "out.onnx", "-r", recipe, "--calib", inputs, "--check", "2", "--json", report)
    assert code == 0 and json.loads(report.read_text())["check"]["cosine"] > 0.999


def test_a_failed_check_exits_1_and_writes_nothing(call, model, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "TOLERANCE", -1.0)
    code, _, [error] = call("convert", model, tmp_path / "out.onnx", "-r", recipe, "--input-shape", "x:2,64", "--json", tmp_path / "r.json")
    assert code == 1 and "outputs differ from those of the m" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "r.yaml"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("passes: [{prune: {sparsty: 0.5}}]", "passes[0].prune.sparsty: no such field; did you mean 'sparsity'?"),
        ("passes: [{prune: {sparsity: 1.5}}]", "passes[0].prune.sparsity"),
        ("passes: [{prune: {pattern: '3:2'}}]", "3:2"),
        ("passes: [{prune: {targets: ['fc3']}}]", "r.yaml: passes[0].prune.targets: 'fc3' matches no layer"),
        ("passes: [{prun: {}}]", "no pass 'prun'; did you mean 'prune'?"),
        ("", "r.yaml"),
        ("passes: [", "r.yaml"),
    ],
)
def test_a_wrong_recipe_names_the_place(call, model, recipe, tmp_path, content, message):
    recipe.write_text(content)
    code, _, errors = call("convert", model, tmp_path / "out.onnx", "-r", recipe)
    assert code == 2 and len(errors) == 1 and message in errors[0], errors
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_damaged_model_names_the_file(call, model, tmp_path, content):
    model.write_bytes(content if content is not None else model.read_bytes()[:-2000])
    code, _, errors = call("convert", model, tmp_path / "out.onnx")
    assert code == 2 and len(errors) == 1 and "in.onnx" in errors[0], errors
    assert not (tmp_path / "out.onnx").exists()


def test_external_data_outside_the_folder_is_refused(call, model, tmp_path):
    proto = onnx.load(model)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64 * 96 * 4))
    folder = tmp_path / "folder"
    folder.mkdir()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    code, _, errors = call("convert", folder / "m.onnx", tmp_path / "out.onnx")
    assert code == 2 and len(errors) == 1 and "secret.bin" in errors[0], errors


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 64)), "input 'x' is float64"),
        (np.zeros((2, 63), np.float32), "63"),
        (np.full((2, 64), np.nan, np.float32), "NaN"),
        (np.vstack([np.zeros((2, 64), np.float32), np.full((1, 64), np.nan, np.float32)]), "c.npz, sample 2: input 'x' holds NaN"),
        (np.zeros((0, 64), np.float32), "no samples"),
    ],
)
def test_wrong_calibration_names_the_input(call, model, recipe, tmp_path, array, message):
    np.savez(tmp_path / "c.npz", x=array)
    code, _, errors = call("convert", model, tmp_path / "out.onnx", "-r", recipe, "--calib", tmp_path / "c.npz")
    assert code == 2 and len(errors) == 1 and message in errors[0], errors


@pytest.mark.parametrize("shape", ["z:1,64", "x:1,63", "x:64"])
def test_wrong_input_shapes_are_named(call, model, tmp_path, shape):
    code, _, errors = call("convert", model, tmp_path / "out.onnx", "--input-shape", shape)
    assert code == 2 and len(errors) == 1 and f"'{shape[0]}'" in errors[0], errors


def test_the_model_itself_is_not_overwritten(call, model):
    content = model.read_bytes()
    code, _, [error] = call("convert", model, model)
    assert code == 2 and "is named twice" in error and model.read_bytes() == content


def test_data_of_the_model_is_not_overwritten(call, model, recipe, tmp_path):
    proto = onnx.load(model)
    onnx.save(proto, tmp_path / "two.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "real").mkdir()
    (tmp_path / "m.data").rename(tmp_path / "real" / "m.data")
    (tmp_path / "m.data").symlink_to("real/m.data")
    content = (tmp_path / "m.data").read_bytes()
    for name in ("m.data", "real/m.data"):
        for arguments in ((tmp_path / "out.onnx", "--json", tmp_path / name), (tmp_path / name,)):
            code, _, [error] = call("convert", tmp_path / "two.onnx", *arguments, "-r", recipe)
            assert code == 2 and f"{name}: holds weights of {tmp_path / 'two.onnx'}, and would be overwritten" in error
    assert (tmp_path / "m.data").read_bytes() == content and not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("twice", ["r.yaml", "out.onnx"])
def test_no_two_files_in_one_place(call, model, recipe, tmp_path, twice):
    content = recipe.read_text()
    code, _, [error] = call("convert", model, tmp_path / "out.onnx", "-r", recipe, "--json", tmp_path / twice)
    assert code == 2 and f"{twice}: is named twice" in error
    assert recipe.read_text() == content and not (tmp_path / "out.onnx").exists()


def test_layers_that_a_pattern_does_not_fit_are_left_out_with_the_reason(call, model, recipe, tmp_path):
    recipe.write_text("passes: [{prune: {pattern: 40x1}}, {pack: {}}]")
    code, text, errors = call("convert", model, tmp_path / "out.onnx", "-r", recipe)
    assert code == 0
    assert errors[0].startswith(f"warning: {recipe}: passes[0].prune changed nothing: 'fc1'"), "stderr has it too"
    assert "skipped: 96 rows (outputs) are no multiple of 40, 40x1 blocks need that (fc1)" in text


def test_a_budget_by_sensitivity_is_kept_and_needs_inputs(call, model, inputs, tmp_path):
    path = tmp_path / "budget.yaml"
    path.write_text("passes:\n  - prune: {criterion: wanda, allocation: sensitivity, budget: {bytes: 30 kB}}\n  - pack\n")
    code, _, errors = call("convert", model, tmp_path / "o.onnx", "--recipe", path, "--calib", inputs, "--json", tmp_path / "r.json")
    assert (code, errors) == (0, [])
    totals = json.loads((tmp_path / "r.json").read_text())["totals"]
    assert 29_500 < totals["bytes_kept"] <= 30_000 < totals["bytes_dense"]
    code, _, [error] = call("convert", model, tmp_path / "o.onnx", "--recipe", path)
    assert code == 2 and "budget.yaml: passes[0].prune.allocation: sensitivity is measured on calibration inputs" in error
    path.write_text("passes: [prune: {budget: {bytes: 100}}]")
    code, _, [error] = call("convert", model, tmp_path / "o.onnx", "--recipe", path)
    assert code == 2 and "passes[0].prune.budget: 100 bytes cannot be met, the nearest that can is" in error


def test_looking_between_passes(call, model, recipe, tmp_path):
    arguments = (model, tmp_path / "out.onnx", "-r", recipe, "--input-shape", "x:2,64", "--check", "0")
    code, text, errors = call("convert", *arguments, "--print-after", "pack", "--verify", "--dump", tmp_path / "seen")
    assert (code, errors) == (0, [])
    assert "after passes[1].pack\nonnx: x float32[2, 64]" in text
    assert "passes[0].prune: holds together; outputs differ by" in text
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["0-start.txt", "1-prune.txt", "2-pack.txt"]


def test_a_pipeline_in_one_line(call, model, tmp_path):
    code, text, errors = call("convert", model, tmp_path / "out.onnx", "-r", "prune{pattern=2:4} pack", "--input-shape", "x:2,64")
    assert (code, errors) == (0, []) and "nm:2:4" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--print-after", "quantize"), "--print-after: no 'quantize' in the recipe; there are: prune, pack"),
        (("--dump", "in.onnx"), "in.onnx: cannot be a folder to dump into"),
        (("--dump", "."), ".: holds something already; name a new folder to dump into"),
    ],
)
def test_nothing_to_look_at(call, model, recipe, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, [error] = call("convert", model, tmp_path / "out.onnx", "-r", recipe, *arguments)
    assert code == 2 and message in error
    assert not (tmp_path / "out.onnx").exists() and model.stat().st_size
