"""`compile` for GPUs on a machine without one, and torch.compile's backend. No kernel is built here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsecc
from models.decoders import llama as llama_decode
from sparsecc.api import dynamo
from sparsecc.codegen.cuda import built, operator, target
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.plan import Binary
from sparsecc.errors import ArtifactError, ModelError, UserError
from sparsecc.runtime import archive
from sparsecc.runtime.module import CompiledModule

RECIPE = llama_decode.recipe()
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def nothing_is_built() -> Iterator[None]:
    def binary(self: Any, kernel: str, what: Any, arch: Any, function: Any, geometry: Any) -> Binary:
        return Binary(kernel, ("W", "X", "Y", "tokens"), Geometry((1, 1, 1), 32, 0), f"{kernel} {what} {arch}".encode(), "source")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(built.Builder, "_binary", binary)
        yield


@pytest.fixture(scope="module")
def tiny(nothing_is_built: None) -> CompiledModule:
    model, inputs = llama_decode.build("tiny"), llama_decode.example_inputs()
    made = sparsecc.compile(torch.export.export(model, inputs), inputs, recipe=RECIPE, target="cuda:sm_90a")
    assert isinstance(made, CompiledModule)
    return made


def test_a_llama_like_decoder(tiny: CompiledModule) -> None:
    """Four calls a block: q, k and v; out and residual; gate and up; down and residual."""
    assert len(operator.calls(tiny.program.graph)) == 8
    assert tiny.report.check is not None and tiny.report.check.max_rel < 0.05
    assert all(site.decision == "sparse" for site in tiny.report.sites if site.name.startswith("blocks"))
    assert "not measured: there is no GPU here; knobs by each kernel's first guess" in tiny.report.explain()
    assert tiny.report.totals["bytes_kept"] < 0.7 * tiny.report.totals["bytes_dense"]


def test_torch_compile_gives_the_rest_to_inductor(tiny: CompiledModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(target, "parse", lambda *_: target.Target(("sm_90a",)))
    model, inputs = llama_decode.build("tiny"), llama_decode.example_inputs()
    options: Any = {"recipe": RECIPE, "cache": tmp_path}
    fast = torch.compile(model, backend=dynamo.backend, options=options, dynamic=False)
    with torch.no_grad():
        assert torch.allclose(fast(*inputs).float(), tiny(*inputs).float(), atol=0.1)
    keys = model.get_buffer("blocks.0.attention.cache.keys")[0, 0].abs().sum(1)
    assert keys[0] > 0 and not keys[1:].any()  # the model's own cache was written


@WITHOUT_GPU
def test_the_backend_without_a_gpu() -> None:
    with pytest.raises(Exception, match="target 'cuda' is the GPU of this machine, but"):
        torch.compile(nn.Linear(4, 4), backend=dynamo.backend)(torch.randn(2, 4))


def test_options_that_the_backend_has_not() -> None:
    with pytest.raises(Exception, match="no option 'recipes'; there are: recipe, cache, inductor"):
        torch.compile(nn.Linear(4, 4), backend=dynamo.backend, options={"recipes": ""})(torch.randn(2, 4))


def test_the_backend_is_found_by_its_name() -> None:
    assert "sparsecc" in torch._dynamo.list_backends()


@WITHOUT_GPU
def test_the_gpu_here_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"target 'cuda' is the GPU of this machine, but .*; name what to compile for, as cuda:sm_90a"):
        sparsecc.compile(nn.Linear(4, 4), (torch.randn(2, 4),), target="cuda")


def test_an_architecture_that_nobody_builds_for() -> None:
    with pytest.raises(UserError, match="no kernels are generated for 'sm_70'; there are: sm_80, sm_86, sm_89, sm_90a"):
        sparsecc.compile(nn.Linear(4, 4), (torch.randn(2, 4),), target="cuda:sm_90a,sm_70")


def test_an_onnx_model(tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    torch.onnx.export(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), path, dynamo=True, verbose=False)
    with pytest.raises(ModelError, match="target cuda takes torch models; this one is of host 'onnx'"):
        sparsecc.compile(path, target="cuda:sm_90a")


@WITHOUT_GPU
def test_an_artifact_where_there_is_no_gpu(tiny: CompiledModule, tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny.sparsecc")
    assert archive.kind(tmp_path / "tiny.sparsecc") == "cuda"
    with pytest.raises(UserError, match="is compiled for GPUs, but"):
        sparsecc.load(tmp_path / "tiny.sparsecc")


def test_a_damaged_artifact(tiny: CompiledModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsecc.runtime import module

    path = tmp_path / "tiny.sparsecc"
    tiny.save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        module.read_module(path)


def test_tuning_needs_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only the GPU here can be tuned: name it as target cuda"):
        sparsecc.tune(nn.Linear(64, 64).bfloat16(), (torch.randn(2, 64).bfloat16(),), records=tmp_path / "r.db", target="cuda:sm_90a")


def test_the_operator_says_what_is_wrong(tiny: CompiledModule) -> None:
    [plan, *_] = tiny.plans
    weight = next(tensor for name, tensor in tiny.named_buffers() if name.endswith("packed"))
    with pytest.raises(UserError, match="no plan 'nothing' in this process"):
        operator.linear_cuda(torch.randn(1, 256), weight, None, None, "nothing")
    with pytest.raises(RuntimeError, match="linear_cuda takes 256 inputs"):
        operator._fake(torch.randn(1, 255), weight, None, None, plan.key)


def test_a_file_without_example_inputs(nothing_is_built: None, tmp_path: Path) -> None:
    """Made-up inputs are bfloat16, as the model takes them, and two architectures stand in one file."""
    layers = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).bfloat16().eval()
    torch.export.save(torch.export.export(layers, (torch.randn(4, 64).bfloat16(),)), tmp_path / "layers.pt2")
    made = sparsecc.compile(tmp_path / "layers.pt2", recipe="prune{pattern=2:4} pack", target="cuda:sm_90a,sm_80")
    assert made.report.check is not None and 0 < made.report.check.max_abs < 0.05
    [plan, _] = made.plans
    assert [sorted(step.binaries) for step in plan.steps] == [["sm_80", "sm_90a"]] * 4 + [["sm_90a"]] * 4  # many tokens on Hopper alone
    assert sorted(plan.expand) == ["sm_80", "sm_90a"]
