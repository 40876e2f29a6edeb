"""Searches for a GPU. Without one here, nothing is built: kernels are what they mean, and times follow the bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsecc
from sparsecc.api import gpu_trials
from sparsecc.api.gpu_trials import GpuTrials
from sparsecc.api.trials import Trials
from sparsecc.autotune import account, gpu_rungs, tune
from sparsecc.autotune.condition import BYTES_KEPT, LATENCY_KEY
from sparsecc.autotune.cost import Cost
from sparsecc.autotune.rungs import DENSE, Rung
from sparsecc.autotune.store import Store
from sparsecc.codegen.cuda import built, choose
from sparsecc.codegen.cuda import target as targets
from sparsecc.codegen.cuda.driver import Geometry
from sparsecc.codegen.cuda.kernel import LinearSpec, Weights
from sparsecc.codegen.cuda.plan import Binary
from sparsecc.codegen.cuda.target import Target
from sparsecc.errors import ModelError, UserError
from sparsecc.graph.inputs import as_array

WIDTH, INNER = 256, 512
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
WITH_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Block(nn.Module):
    """q, k and v, and a gated Mlp."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


def model() -> nn.Module:
    torch.manual_seed(0)
    return Block().bfloat16().eval()


def samples(count: int = 8, tokens: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, tokens, WIDTH, generator=generator).bfloat16(),) for _ in range(count)]


class Bytes:
    """A clock that takes a nanosecond for each byte of a weight, and 20 µs beside."""

    def turns(self, calls: Sequence[Callable[[], object]], seconds: float, rounds: int) -> list[list[float]]:
        whole = [20 + sum(site.bytes_kept for site in call.func.__self__.report.sites) / 1e3 for call in calls]  # type: ignore[attr-defined]
        return [[us] * 3 for us in whole]

    def linear_us(self, rows: int, depth: int, tokens: int, dtype: torch.dtype) -> float:
        return rows * depth * dtype.itemsize / 1e3


class NoGpu(GpuTrials):
    """With a GPU that is not there."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, clock=Bytes())

    @classmethod
    def _target_of(cls, target: str, threads: int | None) -> Target:
        return Target(("sm_90a",))

    @property
    def is_here(self) -> bool:
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def binary(self: Any, kernel: str, what: Any, arch: Any, function: Any, geometry: Any) -> Binary:
        return Binary(kernel, ("W", "X", "Y", "tokens"), Geometry((1, 1, 1), 32, 0), f"{kernel} {what} {arch}".encode(), "source")

    monkeypatch.setattr(built.Builder, "_binary", binary)
    monkeypatch.setattr(tune, "trials_for", lambda target: NoGpu if target == "cuda" else Trials)
    yield


def opened(tokens: int = 4) -> NoGpu:
    [given] = samples(1, tokens)
    found = NoGpu.open(model(), given, target="cuda")
    assert isinstance(found, NoGpu)
    return found


def test_the_ladder_follows_the_tokens(fake: None) -> None:
    few, many = map(opened, (4, 100))
    assert [str(rung) for rung in gpu_rungs.ladder_of(few)] == ["dense", *gpu_rungs.FORMS]
    assert [str(rung) for rung in gpu_rungs.ladder_of(many)] == ["dense", "2:4"]  # nm_prefill alone takes any number


def test_a_model_that_no_kernel_takes(fake: None) -> None:
    wide = NoGpu.open(nn.Linear(64, 64), torch.randn(4, 64), target="cuda")
    with pytest.raises(UserError, match="take none of its layers; they take linear layers in bfloat16 or float16"):
        gpu_rungs.ladder_of(wide)


def test_layers_that_one_kernel_computes(fake: None) -> None:
    assert opened().together == {"q": "q", "k": "q", "v": "q", "gate": "gate", "up": "gate"}


def test_variants_compute_what_recipes_say(fake: None) -> None:
    trials = opened()
    dense, variant = trials.compile({"passes": []}), trials.compile({"passes": [{"quantize": {"dtype": "int4"}}]})
    [y], [mine] = dense.flat(trials.example), variant.flat(trials.example)
    assert y.dtype == torch.bfloat16 and 0 < float((y - mine).abs().max()) < 0.5
    [array] = dense.flat([as_array(value) for value in trials.example])
    assert array.dtype == "float32" and torch.equal(torch.from_numpy(array), y.float())
    assert torch.equal(variant(*trials.example), mine)
    assert trials.computed(variant, trials.sites) == list(trials.sites)


def test_rungs_cost_what_they_store(fake: None) -> None:
    trials = opened()
    cost = Cost.measured(trials, gpu_rungs.ladder_of(trials), Store())
    for name in gpu_rungs.FORMS:
        rung = Rung.parse(name)
        assert rung in cost.rungs("down"), name
        assert cost.bytes({"down": rung}) < cost.bytes({}), name
    whole = dict.fromkeys(trials.sites, Rung.parse("int4"))
    assert cost.predict(whole) == pytest.approx(cost.check(whole), rel=1e-6)
    assert cost.predict({"q": DENSE}) == cost.dense_ms


def found(folder: Path, goal: str, **options: Any) -> tune.Found:
    given: dict[str, Any] = {"goal": goal, "calibration": samples(), "minutes": 2.0, "folder": folder, "target": "cuda"}
    return tune.search(model(), samples(1)[0], **given, **options)


def test_a_mixture_that_is_fast_enough(fake: None, tmp_path: Path) -> None:
    result = found(tmp_path, "latency<=0.5ms")
    assert result.best is not None and result.best.ms <= 0.5 < result.points[0].ms
    assert result.best.measured["cosine"] == max(point.measured["cosine"] for point in result.points if point.ms <= 0.5)
    assert result.best.predicted_ms == pytest.approx(result.best.ms, rel=0.05)
    assert 0 < result.best.error < 0.1  # of outputs in bfloat16, of which numpy knows nothing
    passes = [fields for step in result.best.recipe["passes"] for fields in step.values()]
    for together in ({"q", "k", "v"}, {"gate", "up"}):
        assert all(not together & {*fields["targets"]} or together <= {*fields["targets"]} for fields in passes)
    made = account.report(result)
    assert made.machine == "sm_90a" and any("dense is the model as torch runs it" in note for note in made.notes)
    assert any(note.startswith("recovery left out") for note in made.notes)
    again = found(tmp_path, "latency<=0.5ms")
    assert [point.measured for point in again.points] == [point.measured for point in result.points]


def test_layers_that_run_dense_are_on_no_rung(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cuBLAS is faster."""

    def choose_dense(self: Any, spec: LinearSpec, weights: Weights, tokens: int) -> choose.Choice:
        if spec.gated:
            return choose.Choice(None, reason="cuBLAS is faster")
        return whole(self, spec, weights, tokens)

    whole = choose.Chooser.choose
    monkeypatch.setattr(choose.Chooser, "choose", choose_dense)
    cost = Cost.measured(opened(), (Rung.parse("2:4"),), Store())
    assert [site for site in cost.trials.sites if Rung.parse("2:4") in cost.rungs(site)] == ["q", "k", "v", "o", "down"]


def test_what_one_kernel_computes_is_divided_among_its_layers(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = choose.Row("2:4", 1, 1, 8, {"nm_decode": 12.0, "cublas": 30.0}, "nm_decode")
    whole = choose.Chooser.choose
    monkeypatch.setattr(choose.Chooser, "choose", lambda *given: choose.Choice(whole(*given).plan, (timed,)))
    trials = opened()
    profile = trials.compile({"passes": [{"prune": {"pattern": "2:4", "criterion": "random"}}, {"pack": {}}]}).profile_of(trials.example)
    assert profile.by_site() == {"q": 4.0, "k": 4.0, "v": 4.0, "o": 12.0, "gate": 6.0, "up": 6.0, "down": 12.0}


@WITHOUT_GPU
def test_no_gpu_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target 'cuda': a goal is searched for on the GPU of this machine, but .*$"):
        found(tmp_path, "latency<=0.5ms")


def test_targets_that_are_not_here(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="target 'cuda:sm_90a': a goal is searched for on this machine; name its CPU or GPU, as cpu or cuda"
    ):
        sparsecc.tune(model(), goal="pareto", target="cuda:sm_90a", calibration=samples(), folder=tmp_path)


def test_an_onnx_file(fake: None, tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    torch.onnx.export(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), path, dynamo=True, verbose=False)
    with pytest.raises(ModelError, match="target cuda takes torch models; this one is of host 'onnx'"):
        sparsecc.tune(path, goal="pareto", target="cuda", calibration=[(torch.randn(2, 4),)], folder=tmp_path / "out")


def test_a_model_that_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(calls: Any, at_least: int) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(gpu_trials.measure, "graph", refuse)
    with pytest.raises(UserError, match=r"cannot be captured in a CUDA graph, by which it would be timed: operation not .* capturing$"):
        gpu_trials.GraphClock().turns([lambda: None], 1.0, 3)


@WITH_GPU
def test_a_search_on_a_gpu(tmp_path: Path) -> None:
    result = found(tmp_path, "pareto", rungs=("2:4", "int4"))
    kept = [point.measured[BYTES_KEPT] for point in result.points]
    assert result.front and min(kept) < 0.3 * kept[0]
    assert all(point.measured[LATENCY_KEY] > 0 and point.error < 0.5 for point in result.points)
    assert targets.device_name() == result.machine
