from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from sparsecc import criteria, formats, patterns
from sparsecc.calibration.context import Context
from sparsecc.criteria.base import Chosen, Criterion, Project, Stats
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import WeightSite
from sparsecc.passes.prune import Prune
from sparsecc.pruning import Cut
from tests.passes.fake import FakeGraph, conv, linear


def graph() -> FakeGraph:
    return FakeGraph([linear("a", 32, 64), linear("b", 64, 64, seed=1), conv("c"), linear("tiny", 4, 8)])


def sparsities(result: FakeGraph) -> dict[str, float]:
    return {site.name: (site.weight == 0).float().mean().item() for site in result.sites(WeightSite)}


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "1x4", "2:4"])
def test_zeros_in_the_pattern_and_the_rest_as_it_was(pattern: str) -> None:
    before = graph()
    result = Prune(pattern=pattern).apply(before)
    assert result.modified
    for old, new in zip(before.sites(WeightSite), result.graph.sites(WeightSite), strict=True):
        keep = new.matrix != 0
        assert torch.equal(new.matrix, old.matrix * keep)
        if old.name != "tiny":
            assert patterns.parse(pattern).holds(keep) is None
            assert int(keep.sum()) == keep.numel() // 2


def test_the_input_of_a_pass_stays_as_it_was() -> None:
    before = graph()
    weights = [site.weight.clone() for site in before.sites(WeightSite)]
    Prune(sparsity=0.9).apply(before)
    assert before.edits == []
    assert all(torch.equal(site.weight, weight) for site, weight in zip(before.sites(WeightSite), weights, strict=True))


def test_convolutions_are_pruned_along_the_channels_of_a_tap() -> None:
    result = Prune(pattern="2:4").apply(FakeGraph([conv("c")]))
    [site] = result.graph.sites(WeightSite)
    kept = (site.weight != 0).reshape(16, 2, 4, 3, 3).sum(dim=2)  # groups of 4 consecutive input channels
    assert (kept == 2).all()


@pytest.mark.parametrize("allocation", ["uniform", "erk", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_twice_is_once(allocation: str, criterion: str) -> None:
    prune = Prune(pattern="4x1", sparsity=0.7, allocation=allocation, criterion=criterion)
    once = prune.apply(graph())
    twice = prune.apply(once.graph)
    assert not twice.modified
    for first, second in zip(once.graph.sites(WeightSite), twice.graph.sites(WeightSite), strict=True):
        assert torch.equal(first.weight, second.weight)


def test_targets_and_ignore() -> None:
    result = Prune(targets=("Linear",), ignore=("b",)).apply(graph())
    assert [match.site.name for match in result.matches] == ["a", "tiny"]
    with pytest.raises(RecipeError, match="'bb' matches no layer"):
        Prune(targets=("bb",)).apply(graph())


def test_what_is_refused_says_why() -> None:
    nan = torch.full((64, 64), float("nan"))
    packed = formats.from_key("csr").pack(torch.eye(64), torch.eye(64).bool())
    sites = [
        linear("tiny", 4, 8),
        linear("odd", 33, 64),
        linear("nan", stored=nan),
        linear("tied", shared=True),
        linear("packed", stored=packed),
        conv("grouped", out=64, channels=64, groups=2),
    ]
    result = Prune(pattern="4x1").apply(FakeGraph(sites))
    assert not result.modified
    assert [str(match.refused) for match in result.matches] == [
        "layer 'tiny': 32 weights are fewer than min_weights 1024",
        "layer 'odd': 33 rows (outputs) are no multiple of 4, 4x1 blocks need that",
        "layer 'nan': its weight holds NaN or infinity",
        "layer 'tied': its weight serves other layers too",
        "layer 'packed': already packed as csr",
        "layer 'grouped': grouped convolution (2 groups) has no sparse operator",
    ]


def test_what_is_done_says_what() -> None:
    step, graph = Prune(pattern="2:4"), FakeGraph([linear("a")])
    [match] = step.find(graph, Context())
    assert isinstance(match.action, Cut)
    assert match.action.sparsity == 0.5
    [done] = step.apply(graph).matches
    assert done.action == str(match.action) == "2:4, 50.0% zeros, by magnitude"


def test_fewer_tokens_than_inputs_are_said() -> None:
    def done(criterion: str, tokens: int) -> str:
        inputs = [(torch.randn(tokens - 3, 64),), (torch.randn(3, 64),)]
        [match] = Prune(criterion=criterion).apply(FakeGraph([linear("a")]), Context(calibration=inputs)).matches
        assert match.refused is None
        return str(match.action)

    short = "; 63 tokens for 64 inputs, so that its Hessian is singular and dampened"
    assert done("sparsegpt", 63) == f"unstructured, 50.0% zeros, by sparsegpt{short}"
    assert done("sparsegpt", 64) == "unstructured, 50.0% zeros, by sparsegpt"
    assert done("wanda", 63) == "unstructured, 50.0% zeros, by wanda"


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_zeros_of_before_stay_and_the_report_says_so(criterion: str) -> None:
    context = Context(calibration=[(torch.randn(200, 64, generator=torch.Generator().manual_seed(2)),)])
    sparse = Prune(sparsity=0.7).apply(FakeGraph([linear("a", 64, 64)])).graph
    [before] = sparse.sites(WeightSite)
    updates = criterion in ("sparsegpt", "alps")
    for keep_zeros in (True, False):
        result = Prune(criterion=criterion, pattern="2:4", keep_zeros=keep_zeros).apply(sparse, context)
        [after], [match] = result.graph.sites(WeightSite), result.matches
        zeros = float((after.weight == 0).double().mean())
        assert str(match.action).startswith(f"2:4, {zeros:.1%} zeros, by {criterion}")  # of the weight, not only of the mask
        assert patterns.parse("2:4").cover(after.weight != 0) is not None
        if keep_zeros or not updates:
            assert zeros > 0.7
            assert not after.weight[before.weight == 0].any()
        else:
            assert zeros < 0.65
        said = {True: "; the 70.0% of before stay", False: " zeros of before have values"}
        assert [words in str(match.action) for words in said.values()] == [updates and keep_zeros, updates and not keep_zeros]


def test_weights_that_are_all_worth_the_same_are_left_alone() -> None:
    """Their places would decide: whole outputs would go."""
    binary = torch.randn(32, 64, generator=torch.Generator().manual_seed(3)).sign()
    for pattern in ("unstructured", "2:4", "4x1"):
        [match] = Prune(pattern=pattern).apply(FakeGraph([linear("a", stored=binary)])).matches
        assert str(match.refused) == "layer 'a': magnitude finds all its weights worth the same, so that their places alone would decide"
    ternary = linear("a", stored=binary * (torch.rand(32, 64, generator=torch.Generator().manual_seed(4)) < 0.7))
    for pattern, sparsity, words in (
        ("unstructured", 0.5, "finds all its weights but zeros worth the same"),
        ("2:4", 0.5, "finds all its weights but zeros worth the same"),
        ("unstructured", 0.25, "already zero wherever"),
        ("4x1", 0.5, "None"),  # blocks with fewer zeros are worth more
    ):
        [match] = Prune(pattern=pattern, sparsity=None if pattern == "2:4" else sparsity).apply(FakeGraph([ternary])).matches
        assert words in str(match.refused)
    context = Context(calibration=[(torch.randn(9, 64),)])
    assert Prune(criterion="wanda").apply(FakeGraph([linear("a", stored=binary)]), context).modified  # inputs tell them apart
    assert Prune(criterion="random").apply(FakeGraph([linear("a", stored=binary)])).modified


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt", "alps"])
def test_a_layer_that_only_zeros_enter_stays_dense(criterion: str) -> None:
    for allocation in ("uniform", "global"):
        result = Prune(criterion=criterion, allocation=allocation).apply(
            FakeGraph([linear("a")]), Context(calibration=[(torch.zeros(9, 64),)])
        )
        assert [str(match.refused) for match in result.matches] == ["layer 'a': its calibration inputs are all zero"]


def test_a_layer_that_has_the_zeros_already_is_left_alone() -> None:
    weight = torch.randn(32, 64)
    weight[:, ::2] = 0
    [match] = Prune(sparsity=0.4).apply(FakeGraph([linear("a", stored=weight)])).matches
    assert match.refused is not None
    assert "already zero wherever unstructured at sparsity 0.40" in match.refused.reason


@pytest.mark.parametrize("allocation", ["erk", "global"])
@pytest.mark.parametrize("pattern", ["unstructured", "2x2"])
def test_allocations_meet_the_sparsity_of_the_whole_exactly(allocation: str, pattern: str) -> None:
    sites = [linear("a", 32, 64), linear("b", 96, 64, seed=3), conv("c", 16, 16)]
    result = Prune(sparsity=0.8, allocation=allocation, pattern=pattern).apply(FakeGraph(sites))
    unit = patterns.parse(pattern).unit_size
    total = sum(site.weight.numel() for site in sites) // unit
    kept = sum(int((site.weight != 0).sum()) for site in result.graph.sites(WeightSite)) // unit
    assert kept == total - round(0.8 * total)
    assert len({round(s, 2) for s in sparsities(result.graph).values()}) > 1  # type: ignore[arg-type]


@pytest.mark.parametrize("allocation", ["global", "erk"])
def test_a_floor_of_all_that_is_kept(allocation: str) -> None:
    """1 - 0.9 is less than 0.1 in floating point."""
    result = Prune(sparsity=0.9, allocation=allocation, floor=0.1).apply(FakeGraph([linear("a"), linear("b", 64, 128, seed=1)]))
    for site in result.graph.sites(WeightSite):
        assert float((site.weight == 0).float().mean()) == pytest.approx(0.9, abs=1e-3)


def test_global_keeps_the_floor() -> None:
    weak = torch.randn(64, 64) * 1e-4
    sites = [linear("strong", 64, 64), linear("weak", stored=weak)]
    result = Prune(sparsity=0.6, allocation="global", floor=0.1).apply(FakeGraph(sites))
    assert sparsities(result.graph)["weak"] == pytest.approx(0.9, abs=1e-3)  # type: ignore[arg-type]
    default = Prune(sparsity=0.6, allocation="global").apply(FakeGraph(sites))
    assert sparsities(default.graph)["weak"] == pytest.approx(0.9, abs=1e-3)  # type: ignore[arg-type]  # (1 - 0.6) / 4


def test_random_depends_on_names_and_seed_and_on_nothing_else() -> None:
    def masks(*names: str, **fields: Any) -> dict[str, Tensor]:
        result = Prune(criterion="random", **fields).apply(FakeGraph([linear(name) for name in names]), Context(seed=5))
        return {site.name: site.weight != 0 for site in result.graph.sites(WeightSite)}

    assert torch.equal(masks("a", "b")["b"], masks("b", "z")["b"])
    assert not torch.equal(masks("a", "b")["a"], masks("a", "b")["b"])
    assert not torch.equal(masks("a")["a"], masks("a", seed=6)["a"])
    assert torch.equal(masks("a")["a"], masks("a", seed=5)["a"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pattern": "2:4", "sparsity": 0.6}, "^sparsity: pattern 2:4 has 0.5"),
        ({"sparsity": 0.5, "budget": {"bytes": 1e6}}, "^budget: is what decides the sparsity"),
        ({"budget": {"byte": 1e6}}, "^budget: no 'byte'"),
        ({"targets": ("re:[",)}, "^targets"),
    ],
)
def test_impossible_fields(fields: dict[str, Any], reason: str) -> None:
    """See also `tests/test_pruning.py`."""
    with pytest.raises(RecipeError, match=reason):
        Prune(**fields)


@dataclass(frozen=True)
class ByInputs(Criterion):
    """|w| times the norm of its input: needs calibration, and updates the weights it keeps."""

    needs: ClassVar[tuple[str, ...]] = ("inputs",)

    def score(self, weight: Tensor, stats: Stats, seed: int) -> Tensor:
        return weight.abs() * stats["inputs"].norm(dim=0)

    def choose(self, weight: Tensor, project: Project, sparsity: float, stats: Stats, seed: int, held: Tensor | None = None) -> Chosen:
        return Chosen(project(self.score(weight, stats, seed), sparsity), weight * 2)


def test_criteria_that_measure_and_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criteria, "create", lambda name: ByInputs())
    x = torch.randn(5, 64)
    x[:, :32] = 0
    before = FakeGraph([linear("a")])
    [site] = Prune().apply(before, Context(calibration=[(x,), (x,)])).graph.sites(WeightSite)
    assert not site.weight[:, :32].any()
    assert torch.equal(site.weight[:, 32:], 2 * before.sites(WeightSite)[0].weight[:, 32:])
    with pytest.raises(RecipeError, match="calibration"):
        Prune().apply(before)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "spectral", "random"])
def test_a_refinement_swaps_weights_of_the_mask_and_says_so(criterion: str) -> None:
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(1)) + torch.linspace(-2, 2, 64)
    before, context = FakeGraph([linear("a")]), Context(calibration=[(x,)])
    plain, refined = (Prune(criterion=criterion, refinement=name).apply(before, context) for name in (None, "dsnot"))
    weight = before.sites(WeightSite)[0].weight
    kept = [result.graph.sites(WeightSite)[0].weight != 0 for result in (plain, refined)]
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0].sum(1), kept[1].sum(1))
    assert torch.equal(refined.graph.sites(WeightSite)[0].weight, weight * kept[1])
    apart = [((weight - weight * keep) @ x.T).mean(1).norm() for keep in kept]
    assert apart[1] < 0.5 * apart[0]
    assert refined.matches[0].action == f"unstructured, 50.0% zeros, by {criterion}, then dsnot"


def test_a_refinement_needs_calibration_whatever_it_follows() -> None:
    with pytest.raises(RecipeError, match="calibration"):
        Prune(refinement="dsnot").apply(FakeGraph([linear("a")]))


def test_a_refusal_is_a_value() -> None:
    match = next(iter(Prune().find(FakeGraph([linear("tiny", 2, 2)]), Context())))
    assert match.refused == Refused("4 weights are fewer than min_weights 1024", "tiny")


def test_rows_count_by_what_they_do_to_the_outputs() -> None:
    """Of two alike rows one is read by the next layer, so that its weights stay; a mask for all rows alike keeps half of each."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 8, bias=False), nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        module.get_parameter("1.weight")[:, 4:] *= 0.01
    inputs = [(torch.randn(16, 32),) for _ in range(4)]
    graph = FxGraph.from_module(module.eval(), inputs[0])

    def kept(**options: Any) -> Tensor:
        pruned = Prune(targets=("0",), min_weights=0, criterion="sparsegpt", **options).apply(graph, Context(calibration=inputs)).graph
        return (pruned.sites(WeightSite)[0].matrix != 0).float().mean(1)

    assert float(kept(rows="fisher")[:4].mean()) > 0.9
    assert 0.3 < float(kept()[:4].mean()) < 0.7


@pytest.mark.parametrize(
    ("criterion", "compare", "even"),
    [("magnitude", "output", True), ("magnitude", None, False), ("wanda", None, True), ("wanda", "layer", False)],
)
def test_weights_are_compared_within_the_layer_or_within_an_output(criterion: str, compare: str | None, even: bool) -> None:
    """As told, or as the criterion's paper has it."""
    module = nn.Sequential(nn.Linear(32, 8, bias=False))
    inputs = [(torch.randn(16, 32, generator=torch.Generator().manual_seed(0)),)]
    with torch.no_grad():
        module.get_parameter("0.weight")[4:] *= 0.01
    step = Prune(min_weights=0, criterion=criterion, compare=compare)
    [site] = step.apply(FxGraph.from_module(module.eval(), inputs[0]), Context(calibration=inputs)).graph.sites(WeightSite)
    assert ((site.matrix != 0).sum(1) == 16).all() == even


def test_a_criterion_sees_inputs_made_of_the_samples() -> None:
    """Their number stands in the note on a Hessian of too few."""
    inputs = [(torch.randn(3, 32, generator=torch.Generator().manual_seed(i)),) for i in range(2)]
    graph = FakeGraph([linear("a", 32, 32)])
    for variations, tokens in ((0, 6), (2, 18)):
        step = Prune(criterion="sparsegpt", min_weights=0, variations=variations)
        [match] = step.apply(graph, Context(calibration=inputs)).matches
        assert f"{tokens} tokens for 32 inputs" in str(match.action)


def test_variations_are_not_negative() -> None:
    with pytest.raises(RecipeError, match="variations: -1"):
        Prune(variations=-1)
