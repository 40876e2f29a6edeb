from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import sparsecc
from sparsecc.api import tolerance_of
from sparsecc.api.watching import Dump, Verify, printer, require_sound
from sparsecc.calibration.context import Context
from sparsecc.errors import SparseccError, UserError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear
from sparsecc.passes import pipeline
from sparsecc.passes.base import Match, Pass
from sparsecc.recipe import Recipe

X = torch.linspace(-1, 1, 4 * 32).reshape(4, 32)
LINE = "prune{pattern=4x1,sparsity=0.5} pack"


@pytest.fixture(scope="module")
def graph() -> FxGraph:
    torch.manual_seed(0)
    return FxGraph.from_module(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16)).eval(), (X,))


def test_a_graph_is_printed_after_the_passes_that_are_named(graph: FxGraph) -> None:
    said, recipe = [], Recipe.load(LINE)
    pipeline.run(graph, recipe, Context(), [printer(["pack"], recipe, said.append)])
    [text] = said
    assert text.startswith("after passes[1].pack\nfx: ") and text.count("block:4x1") == 2


def test_a_pass_that_is_not_in_the_recipe() -> None:
    with pytest.raises(UserError, match=r"--print-after: no 'quantise' in the recipe; there are: prune, pack"):
        printer(["quantise"], Recipe.load(LINE), print)


def test_a_file_for_each_pass(graph: FxGraph, tmp_path) -> None:
    folder = tmp_path / "new" / "dump"
    pipeline.run(graph, Recipe.load(LINE), Context(), [Dump(folder)])
    assert sorted(path.name for path in folder.iterdir()) == ["0-start.txt", "1-prune.txt", "2-pack.txt"]
    changed, _, whole = (folder / "2-pack.txt").read_text().partition("\n\n")
    assert changed.startswith("--- before pack\n+++ after pack\n") and changed.count("block:4x1") == 2
    assert whole.startswith("fx: ") and (folder / "0-start.txt").read_text() == str(graph)


def test_dumps_go_into_new_folders(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file: cannot be a folder to dump into"):
        Dump(tmp_path / "file")
    with pytest.raises(UserError, match="holds something already; name a new folder"):
        Dump(tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_kernels_are_dumped_as_tensorir_and_assembly(tmp_path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "dump"
    sparsecc.compile(nn.Linear(32, 64).eval(), (X,), recipe=LINE, dump=folder, threads=1)
    scripts, assembly = ({path.stem: path.read_text() for path in (folder / "kernels").glob(f"*.{end}")} for end in ("py", "s"))
    assert scripts and scripts.keys() == assembly.keys()
    assert all("T.prim_func" in text for text in scripts.values()) and all("ret" in text for text in assembly.values())


def test_each_pass_is_held_against_the_masked_model(graph: FxGraph) -> None:
    said, recipe = [], Recipe.load(f"{LINE} quantize{{min_weights=1}}")
    pipeline.run(graph, recipe, Context(), [Verify([X], tolerance_of, said.append)])
    assert [text.partition(":")[0] for text in said] == ["passes[0].prune", "passes[1].pack", "passes[2].quantize"]
    assert all("holds together; outputs differ by" in text for text in said)


@dataclass(frozen=True)
class Halved(Pass[Linear, str]):
    """Claims to be done with the bias alone, and changes a weight behind the graph's back."""

    def find(self, graph, context):
        yield Match(graph.sites(Linear)[0], "halved")

    def rewrite(self, graph, site, action) -> None:
        graph.set_bias(site, site.bias)
        graph.run = lambda inputs, taps=(), run=graph.run: replace(run(inputs, taps), outputs=(run(inputs).outputs[0] / 2,))


def test_a_pass_that_computes_something_else(graph: FxGraph, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "registered_name", lambda step: "halved")
    with pytest.raises(SparseccError, match=r"passes\[0\].halved: outputs differ from those of the masked model: by 0\.5"):
        pipeline.run(graph, Recipe((Halved(),)), Context(), [Verify([X], tolerance_of, print)])


def test_what_cannot_be_compared_is_said(graph: FxGraph) -> None:
    said = []
    recipe = Recipe.load("structured{neurons=0.5}")
    pipeline.run(graph, recipe, Context(), [Verify([X], tolerance_of, said.append)])
    assert said == ["passes[0].structured: holds together; not compared: layer '0' was 64x32, it is 32x32"]


def test_a_site_that_is_not_what_it_says(graph: FxGraph, monkeypatch) -> None:
    first, second = graph.sites(Linear)
    broken = replace(first, bias=torch.zeros(3))
    monkeypatch.setattr(graph, "sites", lambda kind=None, targets=(): [broken, second])
    with pytest.raises(SparseccError, match="here: layer '0' has 64 rows and a bias of 3"):
        require_sound(graph, "here")
    monkeypatch.setattr(graph, "sites", lambda kind=None, targets=(): [first, first])
    with pytest.raises(SparseccError, match="here: two sites are called '0'"):
        require_sound(graph, "here")
