"""The whole way through, with nothing replaced: model in, faster model out, saved, loaded, run."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import sparsecc
from sparsecc import cli
from sparsecc.errors import InputError, ModelError
from tests.cli.conftest import INPUTS, RECIPE, two_layers
from tests.graph.onnx_models import model, node, random


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(INPUTS, 96)
        self.second = nn.Linear(96, INPUTS)

    def forward(self, x):
        return {"y": self.second(torch.nn.functional.gelu(self.first(x)))}


def example(tokens=3):
    return np.random.default_rng(tokens).standard_normal((tokens, INPUTS)).astype(np.float32)


def test_an_onnx_model():
    import onnxruntime

    compiled = sparsecc.compile(two_layers(), recipe=RECIPE, input_shapes={"x": (3, INPUTS)}, threads=2)
    converted, _ = sparsecc.convert(two_layers(), RECIPE)
    want = np.asarray(onnxruntime.InferenceSession(converted.SerializeToString()).run(None, {"x": example()})[0])
    np.testing.assert_allclose(compiled(example()), want, rtol=1e-4, atol=1e-4)
    assert compiled.report.check is not None and compiled.report.check.max_rel < 1e-4
    assert all(site.decision in ("sparse", "dense") and site.reason for site in compiled.report.sites)
    onnx.checker.check_model(compiled.to_onnx())


def test_a_torch_module_at_several_lengths_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    compiled = sparsecc.compile(Mlp().eval(), (torch.from_numpy(example()),), recipe=RECIPE, threads=2)
    results = {tokens: compiled(torch.from_numpy(example(tokens)))["y"] for tokens in (3, 17)}
    compiled.save(tmp_path / "m.sparsecc")
    loaded = sparsecc.load(tmp_path / "m.sparsecc")
    for tokens, result in results.items():
        assert isinstance(result, torch.Tensor)
        np.testing.assert_allclose(loaded(example(tokens))["y"], result.numpy(), rtol=1e-6, atol=1e-6)


def test_what_is_compiled_stays_as_it_is_when_the_module_changes():
    """Weights that the code reads in the model's own order (tables, scales) are copied, too."""
    module = nn.Sequential(nn.Embedding(100, INPUTS), nn.LayerNorm(INPUTS), nn.Linear(INPUTS, 96)).eval()
    tokens = torch.arange(12).reshape(2, 6)
    compiled = sparsecc.compile(module, (tokens,), threads=2)
    before = compiled(tokens).clone()
    assert torch.allclose(before, module(tokens), atol=1e-5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert torch.equal(compiled(tokens), before)


def test_an_index_beyond_its_table_is_refused_also_after_loading(tmp_path):
    module = nn.Sequential(nn.Embedding(100, INPUTS), nn.Linear(INPUTS, 8)).eval()
    compiled = sparsecc.compile(module, (torch.zeros(1, 5, dtype=torch.int64),), threads=2)
    compiled.save(tmp_path / "m.sparsecc")
    for each in (compiled, sparsecc.load(tmp_path / "m.sparsecc")):
        with pytest.raises(InputError, match="holds 100, it indexes a table of 100"):
            each(torch.tensor([[0, 1, 2, 100, 99]]))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_floats_are_refused_by_the_layers_name(dtype):
    kind = getattr(torch, dtype)
    with pytest.raises(ModelError, match=f"^layer '.*' is {dtype}; this version compiles float32"):
        sparsecc.compile(nn.Linear(16, 16).to(kind), (torch.zeros(2, 16, dtype=kind),))


@pytest.mark.parametrize("against", ["onnxruntime"])
def test_the_command_line(tmp_path, capsys, against):
    onnx.save(two_layers(batch=4), tmp_path / "in.onnx")
    (tmp_path / "r.yaml").write_text(json.dumps(RECIPE))
    model, recipe, artifact = str(tmp_path / "in.onnx"), str(tmp_path / "r.yaml"), str(tmp_path / "out.sparsecc")
    assert cli.main(["compile", model, artifact, "-r", recipe]) == 0
    assert cli.main(["run", artifact]) == 0
    assert cli.main(["explain", artifact]) == 0
    assert cli.main(["bench", model, "-r", recipe, "--against", against, "--seconds", "0.2"]) == 0
    assert capsys.readouterr().err == ""


class VideoBlock(nn.Module):
    """Attention over a grid of 2 × 3 × 4 tokens and 3 of text, then a layer of each structure."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        heads = x.unflatten(-1, (1, 32)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return x + self.fc2(nn.functional.relu(self.fc1(mixed)))


def video_block_in_onnx():
    nodes = [
        node("Unsqueeze", "x one", "heads"),
        node("Transpose", "heads", "keys", perm=[0, 1, 3, 2]),
        node("MatMul", "heads keys", "scores"),
        node("Mul", "scores scale", "scaled"),
        node("Softmax", "scaled", "p", axis=-1),
        node("MatMul", "p heads", "o"),
        node("Squeeze", "o one", "mixed"),
        node("MatMul", "mixed w1", "fc1"),
        node("Relu", "fc1", "a"),
        node("MatMul", "a w2", "fc2"),
        node("Add", "fc2 x", "y"),
    ]
    weights = {"one": np.array([1]), "scale": np.array(32**-0.5, np.float32), "w1": random(32, 64), "w2": random(64, 32)}
    return model(nodes, {"x": [2, 27, 32]}, {"y": [2, 27, 32]}, weights)


VIDEO = random(2, 27, 32)
VIDEO_RECIPE = {
    "passes": [
        {"reorder_tokens": {"grid": [2, 3, 4], "text_tokens": 3, "density": 0.8, "block": 5}},
        {"substitute": {"structure": "low_rank", "targets": ["fc1"]}},
        {"substitute": {"structure": "monarch"}},
    ]
}


def test_structures_and_reordered_tokens_of_a_module():
    torch.manual_seed(0)
    compiled = sparsecc.compile(VideoBlock().eval(), (torch.from_numpy(VIDEO),), recipe=VIDEO_RECIPE, calibration=[(VIDEO,)], threads=2)
    assert compiled.report.check is not None and compiled.report.check.max_rel < 1e-5
    assert [str(site.format).split(":")[0] for site in compiled.report.sites] == ["block_map", "low_rank", "monarch"]


def test_structures_and_reordered_tokens_of_a_converted_file_saved_and_loaded(tmp_path):
    import onnxruntime

    converted, _ = sparsecc.convert(video_block_in_onnx(), VIDEO_RECIPE, calibration=[(VIDEO,)])
    onnx.save(converted, tmp_path / "converted.onnx")
    compiled = sparsecc.compile(tmp_path / "converted.onnx", threads=2)
    assert [str(site.format).split(":")[0] for site in compiled.report.sites] == ["block_map", "low_rank", "monarch"]
    compiled.save(tmp_path / "m.sparsecc")
    want = np.asarray(onnxruntime.InferenceSession(tmp_path / "converted.onnx").run(None, {"x": VIDEO})[0])
    for each in (compiled, sparsecc.load(tmp_path / "m.sparsecc")):
        np.testing.assert_allclose(each(VIDEO), want, rtol=1e-4, atol=1e-4)
