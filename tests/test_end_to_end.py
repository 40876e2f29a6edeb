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
    want = onnxruntime.InferenceSession(converted.SerializeToString()).run(None, {"x": example()})[0]
    np.testing.assert_allclose(compiled(example()), want, rtol=1e-4, atol=1e-4)
    assert compiled.report.check.max_rel < 1e-4
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
