from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import sparsecc
from sparsecc import api
from sparsecc.api import rewriting
from sparsecc.codegen.cpu.pieces.tiles import Tiles
from sparsecc.errors import InputError, RecipeError, UserError
from sparsecc.graph.inputs import bind
from sparsecc.graph.sites import WeightSite
from sparsecc.recipe import Recipe
from tests.cli.conftest import RECIPE, two_layers
from tests.runtime import tiny


class Tiny(nn.Module):
    """What tests.runtime.tiny compiles."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(tiny.COLS, tiny.ROWS, bias=False)
        self.fc.weight.data = torch.from_numpy(tiny.WEIGHT.copy())

    def forward(self, x):
        y = self.fc(x)
        return {"y": y, "relu": torch.relu(y)}


@pytest.fixture
def build(monkeypatch):
    """Codegen that hands out tests.runtime.tiny's library; the value is the shapes that it was asked for."""
    return tiny.fake_codegen(monkeypatch)


def test_compile_returns_what_the_module_returns(build):
    x = torch.from_numpy(tiny.example())
    compiled = sparsecc.compile(Tiny(), (x,))
    result = compiled(x)
    want = Tiny()(x)
    assert list(result) == ["y", "relu"]
    for name, tensor in want.items():
        torch.testing.assert_close(result[name], tensor.detach())
    assert compiled.report.model == "Tiny" and compiled.report.target == "cpu"
    assert compiled.report.check is not None and compiled.report.check.max_rel < 1e-5


class Switched(nn.Module):
    """Takes a dict of tensors, a list of them and a flag."""

    def forward(self, named, several, double):
        y = named["a"] - named["b"] + several[0]
        return 2 * y if double else y


def test_inputs_that_are_no_tensors_are_part_of_the_model():
    a, b, c = (torch.randn(2, 3) for _ in range(3))
    given = ({"a": a, "b": b}, [c], True)
    for model, example in ((Switched(), given), (torch.export.export(Switched(), given), None)):
        compiled = sparsecc.compile(model, example)
        torch.testing.assert_close(compiled(a, b, c), 2 * (a - b + c))
        measured = compiled.report.measured
        assert measured is not None and measured.samples == {"example": 1}
        assert [*measured.shapes.values()] == [(2, 3)] * 3
        assert measured.threads == compiled.target.threads


def test_the_report_says_what_was_run():
    given = [np.zeros((2, 64), np.float32)]
    measured = api.convert_graph(two_layers(), RECIPE, calibration=[given], check=3)[1].measured
    assert measured is not None and measured.samples == {"calibration": 1, "random": 2}
    assert measured.shapes == {"x": (2, 64)}


def test_further_shapes_are_compiled_on_demand(build):
    compiled = sparsecc.compile(Tiny(), tiny.example())
    compiled(tiny.example(7))
    compiled(tiny.example(3))
    assert build == [(3, tiny.COLS), (7, tiny.COLS)]


def test_codegens_choice_counts_for_packed_sites_only(build):
    [site] = sparsecc.compile(Tiny(), tiny.example()).report.sites
    assert (site.kernel, site.dense_us, site.decision, site.reason) == ("row_block_spmm", 2.0, "skipped", "no zeros")


def test_a_wrong_result_is_not_returned_silently(build):
    module = Tiny()
    with torch.no_grad():
        module.fc.weight.mul_(2)
    with pytest.warns(UserWarning, match="differs from the masked model by 0.5"):
        sparsecc.compile(module, tiny.example())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, UserError, "threads: 0"),
        ({"threads": "2"}, UserError, "threads: '2'"),
        ({"target": None}, UserError, "target: None"),
        ({"records": "db"}, UserError, "db: no such file; `sparsecc tune` writes one"),
        ({"calibration": []}, InputError, "no samples"),
        ({"recipe": {"passes": [{"prune": {"targets": ["fd"]}}]}}, RecipeError, "fd"),
    ],
)
def test_mistakes(build, options, error, message):
    with pytest.raises(error, match=message):
        sparsecc.compile(Tiny(), tiny.example(), **options)


def test_example_inputs_that_do_not_fit(build):
    with pytest.raises(UserError):
        sparsecc.compile(Tiny(), tiny.example()[:, :5])


def test_convert_gives_a_proto_and_a_report():
    proto, report = sparsecc.convert(two_layers(), RECIPE, input_shapes={"x": (2, 64)})
    assert {entry.domain for entry in proto.opset_import} >= {"ai.sparsecc"}
    assert report.totals["sparse"] == 2 and report.totals["bytes_kept"] < 0.7 * report.totals["bytes_dense"]
    assert report.check is not None and report.check.max_rel < 1e-5
    assert sparsecc.convert(two_layers(), RECIPE)[1].check is None


def test_convert_substitutes_within_an_error_budget():
    x = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    steps = [{"substitute": {"structure": "auto", "params": 0.5}}, "pack"]
    proto, report = sparsecc.convert(two_layers(), {"passes": steps}, calibration=[(x,)])
    assert report.totals["structured"] == 2 and report.totals["bytes_kept"] <= 0.5 * report.totals["bytes_dense"]
    for row in report.sites:
        assert row.output_error is not None and 0 < row.output_error < 1
        assert row.format is not None and row.pattern is not None and row.format in row.pattern
    assert report.check is not None and report.check.max_rel < 1e-5
    assert len(proto.SerializeToString()) < 0.7 * len(two_layers().SerializeToString())
    strict = [{"substitute": {"max_error": 0.01}}]
    _, report = sparsecc.convert(two_layers(), {"passes": strict}, calibration=[(x,)])
    assert [row.decision for row in report.sites] == ["skipped"] * 2
    assert "more than max_error 0.01" in report.sites[0].reason and "output error 0." in report.sites[0].reason


def test_convert_takes_onnx_only():
    with pytest.raises(UserError):
        sparsecc.convert(Tiny(), RECIPE)


def test_explain_takes_whatever_has_a_report():
    compiled = SimpleNamespace(report=sparsecc.convert(two_layers(), RECIPE)[1])
    assert "sparse: packed in" in sparsecc.explain(compiled)


def test_explain_says_what_would_be_done_and_why_not():
    text = sparsecc.explain(Tiny(), tiny.example(), recipe=RECIPE)
    assert "fc  Linear 5×24" in text and "skipped: " in text
    assert sparsecc.explain(tiny.REPORT) == tiny.REPORT.explain()
    with pytest.raises(UserError, match="a Report says what was done already"):
        sparsecc.explain(tiny.REPORT, recipe=RECIPE)


def test_explain_takes_what_a_recipe_calibrates_on():
    recipe = {"passes": [{"prune": {"criterion": "wanda", "min_weights": 0}}]}
    with pytest.raises(sparsecc.SparseccError, match="pass calibration="):
        sparsecc.explain(Tiny(), tiny.example(), recipe=recipe)
    assert "by wanda" in sparsecc.explain(Tiny(), tiny.example(), recipe=recipe, calibration=[tiny.example()])


def test_a_pruned_layer_says_so_when_nothing_packs_it():
    recipe = {"passes": [{"prune": {"sparsity": 0.5, "min_weights": 0}}]}
    [site] = sparsecc.api.survey(Tiny(), tiny.example(), recipe=recipe).sites
    assert (site.decision, site.reason) == ("dense", "prune: unstructured, 50.0% zeros, by magnitude")


def test_a_pruned_layer_that_pack_refuses_was_not_skipped():
    recipe = {"passes": [{"prune": {"sparsity": 0.04, "min_weights": 0}}, {"pack": {}}]}
    [site] = sparsecc.api.survey(Tiny(), tiny.example(), recipe=recipe).sites
    assert (site.decision, site.pattern, site.format) == ("dense", "unstructured", None)
    assert site.reason.startswith("prune: unstructured, 4.2% zeros, by magnitude; refused: sparsity 0.04: ")


def test_the_masked_graph_is_the_one_before_packing():
    graph = api.sources.open_graph(two_layers())
    result = rewriting.rewrite(graph, Recipe.load(RECIPE), None, None, "m")
    assert all(site.packed is None for site in result.masked.sites(WeightSite))
    assert all(site.packed is not None for site in result.graph.sites(WeightSite))
    assert (result.masked.sites(WeightSite)[0].weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_samples_are_the_calibrations_then_random_ones():
    graph = api.sources.open_graph(two_layers())
    given = bind(graph.inputs, [np.zeros((2, 64), np.float32)])
    result = rewriting.rewrite(graph, Recipe.load(RECIPE), [given], given, "m")
    first, second = result.samples(2)
    assert first[0] is given[0] and second[0].shape == (2, 64) and second[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cpu:cortex-a76"}, "is not this machine"),
        ({"trials": 0}, "above zero"),
        ({"seconds": float("nan")}, "above zero"),
        ({"records": "no/r.db"}, "there is no folder no"),
    ],
)
def test_tune_says_what_it_cannot(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        sparsecc.tune(Tiny(), tiny.example(), **{"records": "r.db", **options})


def test_tuned_knobs_are_the_compiled_ones(tmp_path):
    """Real measurements of a torch model; what won is what compile takes."""
    recipe = {"passes": [{"prune": {"pattern": "4x1", "sparsity": 0.75, "min_weights": 0}}, {"pack": {}}]}
    model, x, records = nn.Linear(32, 16), torch.randn(16, 32), tmp_path / "r.db"
    result = sparsecc.tune(model, (x,), recipe=recipe, records=records, threads=1, trials=6)
    [site] = sparsecc.compile(model, (x,), recipe=recipe, records=records, threads=1).report.sites
    assert result.measured == 6 and site.reason.endswith(", by the records")
    timed = [(task.tuned_us.median, task) for task in result.tasks if task.tuned_us]
    _, fastest = min(timed, key=lambda found: found[0])
    knobs = fastest.knobs
    assert isinstance(knobs, Tiles)
    assert site.kernel == f"{fastest.task.kernel} {knobs.rows}x{knobs.tile} panel={knobs.panel} groups={knobs.groups}"
    us = {task.task.kernel: task.tuned_us.median for task in result.tasks if task.tuned_us}
    assert (site.measured_us, site.dense_us) == pytest.approx((us["row_block_spmm"], us["dense_matmul"]))


def test_nothing_to_tune(tmp_path):
    with pytest.raises(UserError, match="nothing to tune"):
        sparsecc.tune(nn.ReLU(), (torch.zeros(4),), records=tmp_path / "r.db")


def test_pruned_weights_may_lie_in_a_folder_while_the_recipe_runs(tmp_path):
    torch.manual_seed(0)
    module, x = nn.Linear(64, 64).eval(), torch.randn(4, 64)
    recipe = {"passes": [{"prune": {"pattern": "4x1"}}, "pack"]}
    there, here = (sparsecc.compile(module, (x,), recipe=recipe, threads=1, scratch=folder) for folder in (tmp_path, None))
    torch.testing.assert_close(there(x), here(x))
    assert not list(tmp_path.iterdir())  # the files have no names, and go with the weights
    with pytest.raises(UserError, match="cannot be written there"):
        sparsecc.compile(module, (x,), recipe=recipe, threads=1, scratch=tmp_path / "nowhere")
