from __future__ import annotations

import pytest
import torch
from torch import nn

from models._locality import planted
from sparsecc.api import account
from sparsecc.api.rewriting import rewrite
from sparsecc.attention.base import BlockMap, Grid
from sparsecc.formats import from_key
from sparsecc.formats.base import Packed
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.inputs import bind
from sparsecc.graph.sites import Attention, Conv2d, Linear
from sparsecc.ops.block_attention.torch import reference, relative_error
from sparsecc.precisions.base import Quantized
from sparsecc.precisions.bfloat16 import BFloat16
from sparsecc.recipe import Recipe
from sparsecc.report.base import Report, totals
from sparsecc.report.ledger import Entry, Ledger
from sparsecc.structures.base import Structured
from sparsecc.structures.low_rank import LowRank
from tests.passes.fake import FakeGraph


def test_output_error_of_a_linear():
    before = Linear(name="a", stored=torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    after = Linear(name="a", stored=torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
    assert account._relative_error(before, after, torch.eye(2)) == pytest.approx(4 / 5)


def test_output_error_of_a_convolution_heeds_its_geometry():
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    geometry = {"name": "c", "kernel": (3, 3), "stride": (2, 2), "padding": (0, 1, 2, 3)}
    before = Conv2d(stored=weight, **geometry)
    after = Conv2d(stored=weight * 0.5, **geometry)
    assert account._relative_error(before, after, torch.randn(1, 3, 9, 9)) == pytest.approx(0.5)


class Attending(nn.Module):
    def forward(self, q, k, v):
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return nn.functional.scaled_dot_product_attention(y, k[:, :, :5], v[:, :, :5])


@pytest.fixture(scope="module")
def reordered():
    """Of two attentions the second is cross attention."""
    sample = planted(Grid(2, 5, 6, text_tokens=3), (3, 1))
    graph = FxGraph.from_module(Attending(), tuple(sample))
    given = bind(graph.inputs, sample)
    recipe = {"passes": [{"reorder_tokens": {"grid": [2, 5, 6], "text_tokens": 3, "density": 0.5, "block": 8}}]}
    return sample, rewrite(graph, Recipe.load(recipe), [given], given, "m")


def test_a_reordered_attention_has_a_row_and_one_that_was_refused_its_reason(reordered):
    (q, k, v), result = reordered
    sparse, cross = account.report(result, "cpu").sites
    assert (sparse.kind, sparse.shape, sparse.pattern, sparse.format) == ("Attention", (2, 63, 64), "8x8", "block_map")
    assert (sparse.decision, sparse.sparsity) == ("sparse", pytest.approx(0.5))
    assert sparse.reason.startswith("density 0.50, lost mass 0.")
    assert sparse.reason.endswith("order FWH for head 1, order HWF for head 0")
    assert [(head.order, head.density) for head in sparse.heads] == [("HWF", pytest.approx(0.5)), ("FWH", pytest.approx(0.5))]
    assert all(head.lost is not None and head.error is not None and 0 < head.error < 1 for head in sparse.heads)
    block_map = next(site.block_map for site in result.graph.sites(Attention) if site.block_map is not None)
    assert isinstance(block_map, BlockMap)
    assert sparse.output_error == pytest.approx(relative_error(q, k, v, reference(q, k, v, block_map, 0.125), 0.125))
    assert (cross.decision, cross.format) == ("skipped", None)
    assert cross.reason == "cross attention: 63 queries, 5 keys"


def test_an_attention_that_came_block_sparse_has_a_row_and_others_have_none(reordered):
    _, result = reordered
    untouched = rewrite(result.graph, Recipe.load({"passes": []}), None, None, "m")
    [sparse] = account.report(untouched, "cpu").sites
    assert (sparse.decision, sparse.reason) == ("sparse", "block-sparse as the model came, density 0.50")
    assert [(head.order, head.lost, head.error) for head in sparse.heads] == [("HWF", None, None), ("FWH", None, None)]
    assert account.report(rewrite(result.original, Recipe.load({"passes": []}), None, None, "m"), "cpu").sites == ()


def test_a_structured_site_says_what_it_became():
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    structured = LowRank(2).project(weight)
    after = Linear(name="a", stored=structured)
    row = account._site(after, after, after, Ledger(), 0.25)
    assert (row.decision, row.pattern, row.format) == ("structured", "low_rank:2", "low_rank:2")
    assert (row.shape, row.bytes_dense, row.bytes_packed) == ((8, 6), 8 * 6 * 4, 2 * (8 + 6) * 4)
    assert (row.output_error, row.reason) == (0.25, "factored into 0.58 of the dense bytes")
    ledger = Ledger()
    ledger.add([Entry(step="substitute", site="a", done="low_rank:2"), Entry(step="pack", site="a", refused="no zeros")])
    assert account._site(after, after, after, ledger, 0.25).reason == "substitute: low_rank:2"
    assert totals([row])["bytes_kept"] == row.bytes_packed
    before = Linear(name="a", stored=weight)
    left = (weight - structured.dense()).norm() / weight.norm()
    assert account._relative_error(before, after, torch.eye(6)) == pytest.approx(float(left))


class Doubles(BFloat16):
    """Numbers that no kernel knows."""

    @property
    def key(self) -> str:
        return "doubles"


@pytest.mark.parametrize("format", [None, "nm:2:4"])
def test_numbers_without_kernels_are_float32_in_what_is_compiled(format: str | None):
    weight = torch.tensor([[1.0, 0, 2, 0] * 8] * 4)
    stored = Doubles().quantize(weight)
    stored = stored if format is None else stored.packed(from_key(format), weight != 0)
    known = BFloat16().quantize(weight)
    sites = [Linear(name="a", stored=stored), Linear(name="b", stored=known)]
    rows = tuple(account._site(site, site, Linear(name=site.name, stored=weight), Ledger(), None) for site in sites)
    report = Report(sparsecc="1", model="m", target="cpu", sites=rows)
    found, same = account.chosen(report, [], FakeGraph(sites)).sites
    assert same == rows[1]
    assert (found.dtype, found.quantized) == ("float32", False)
    assert found.bytes_kept == (4 * 4 * 32 if format is None else from_key(format).pack(weight, weight != 0).nbytes)
    assert found.reason.endswith("compiled in float32, there are no kernels for doubles")


def test_a_pattern_is_claimed_as_long_as_its_zeros_are_there():
    torch.manual_seed(0)
    graph = FxGraph.from_module(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)), (torch.randn(3, 64),))
    samples = [bind(graph.inputs, (torch.randn(200, 64),))]

    def patterns(*steps):
        result = rewrite(graph, Recipe.load({"passes": [{"prune": {"pattern": "2:4"}}, *steps]}), samples, None, "m")
        rows = account.report(result, "cpu").sites
        for row, site in zip(rows, result.graph.sites(Linear), strict=True):
            assert row.sparsity == pytest.approx(float((site.weight == 0).double().mean()))
        return [row.pattern for row in rows]

    assert patterns() == ["2:4", "2:4"]
    assert patterns({"recover": {"held_out": 0.0, "variations": 0}}, {"quantize": {}}) == ["2:4", "2:4"]
    assert patterns({"permute": {"pattern": "4x1"}}) == ["2:4", None]  # whose inputs stand in other groups now
    assert patterns({"structured": {"neurons": 0.5}}) == ["2:4", None]


def test_nothing_is_made_dense_to_fill_a_report(monkeypatch):
    """A weight that is not dense says its type, zeros and bytes itself."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3))).eval()
    line = "substitute{targets=['0'],params=0.25} quantize{targets=['1'],min_weights=1} prune{targets=['2'],pattern=2:4} pack"
    x = torch.randn(4, 64)
    result = rewrite(FxGraph.from_module(model, (x,)), Recipe.load(line), None, None, "m")
    made = []
    for form in (Packed, Structured, Quantized):
        monkeypatch.setattr(form, "dense", lambda self, layer="": made.append(self.key))
    report = account.report(result, "cpu")
    structure = report.sites[0].format
    assert structure is not None
    assert [site.format for site in report.sites] == [*structure.split(), "int8", "nm:2:4"] and made == []
    assert [site.dtype for site in result.graph.sites(Linear)] == ["float32"] * 3 and made == []


def test_the_pattern_asked_for_and_the_format_stored():
    model, x = nn.Linear(64, 64).eval(), torch.randn(4, 64)
    line = "prune{pattern=unstructured,sparsity=0.9} pack{formats=[block]}"
    graph = FxGraph.from_module(model, (x,))
    [row] = account.report(rewrite(graph, Recipe.load(line), None, bind(graph.inputs, (x,)), "m"), "cpu").sites
    assert row.pattern == "unstructured" and row.format is not None and row.format.startswith("block:")
