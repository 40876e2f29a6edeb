"""Neurons and heads go; what is left is a smaller dense model, and the same one where only dead ones went."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.calibration.context import Context, Progress
from sparsecc.errors import RecipeError
from sparsecc.graph.base import Graph
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention, Linear, WeightSite
from sparsecc.passes import pipeline
from sparsecc.passes.permute import Permute
from sparsecc.passes.recover import Recover
from sparsecc.passes.structured import CRITERIA, Structured
from sparsecc.recipe import Recipe
from tests.laws.hosts import HOSTS, given, graph, model
from tests.laws.test_structures import LOADERS
from tests.tolerance import assert_close

every_host = pytest.mark.parametrize("host", HOSTS)
every_criterion = pytest.mark.parametrize("criterion", CRITERIA)


class Grouped(nn.Module):
    """Odd sizes: 3 of 6 heads share their keys and values, v is wider than q and k; an Mlp of 37 neurons whose second layer has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(30, 30), nn.Linear(30, 10), nn.Linear(30, 14)
        self.out = nn.Linear(42, 30)
        self.fc1, self.fc2 = nn.Linear(30, 37), nn.Linear(37, 30, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (heads, -1)).transpose(1, 2) for layer, heads in self.projections())
        k, v = (shared.unsqueeze(2).expand(-1, -1, 3, -1, -1).flatten(1, 2) for shared in (k, v))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.fc2(functional.silu(self.fc1(x)))

    def projections(self) -> list[tuple[nn.Linear, int]]:
        return [(self.query, 6), (self.key, 2), (self.value, 2)]


def samples(width: int, count: int = 8) -> list[tuple[Tensor]]:
    return [(torch.randn(2, 10, width, generator=torch.Generator().manual_seed(i)),) for i in range(count)]


def shapes(of: Graph) -> dict[str, tuple[int, ...]]:
    return {site.name: site.shape for site in of.sites(WeightSite)}


@cache
def seeded(module: Callable[..., nn.Module], *options: str) -> nn.Module:
    """The same on every call; not to be modified."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return module(*options).eval()


@cache
def hosted(host: str, module: nn.Module, width: int) -> Graph:
    """Passes leave it as it is, so tests share it."""
    return HOSTS[host](module, samples(width)[0][0])


@every_host
@every_criterion
def test_a_share_goes(host: str, criterion: str) -> None:
    before = graph(host, "transformer")
    result = Structured(neurons=0.3, heads=0.5, criterion=criterion).apply(before, Context(calibration=samples(32)))
    attention, mlp = result.matches
    assert attention.layers == ("query", "key", "value", "out")
    assert mlp.layers == ("fc1", "fc2")
    assert str(mlp.action).startswith(f"38 of 128 neurons removed by {criterion}, 8,192 -> 5,760 weights")
    assert "2 of 4 heads" in str(attention.action)
    assert ("error" in str(mlp.action)) == (criterion != "magnitude")
    assert shapes(result.graph) == shapes(before) | {
        "query": (16, 32), "key": (16, 32), "value": (16, 32), "out": (32, 16), "fc1": (90, 32), "fc2": (32, 90),
    }  # fmt: skip
    assert [site.heads for site in result.graph.sites(Attention)] == [2]


@every_host
def test_a_removal_is_a_zero_in_what_reads_it(host: str) -> None:
    """By contribution the columns that stay keep their values, so that the oracle is the model as it came with the others at zero."""
    before = graph(host, "transformer")
    after = Structured(neurons=0.3, heads=0.25, criterion="contribution").apply(before, Context(calibration=samples(32))).graph
    oracle = before.copy()
    for reader in ("out", "fc2"):
        [old], [new] = (of.sites(Linear, (reader,)) for of in (before, after))
        kept = {tuple(column) for column in new.weight.T.tolist()}
        stay = torch.tensor([tuple(column) in kept for column in old.weight.T.tolist()])
        assert int(stay.sum()) == new.cols
        assert torch.equal(old.weight[:, stay], new.weight)
        oracle.set_weight(old, old.weight * stay)
        if new.bias is not None:
            oracle.set_bias(old, new.bias)
    for x in samples(32, 2):
        assert_close(after.run(x).outputs[0], oracle.run(x).outputs[0])


@every_host
@every_criterion
def test_grouped_heads_and_odd_sizes(host: str, criterion: str) -> None:
    before = hosted(host, seeded(Grouped), 30)
    result = Structured(neurons=0.5, heads=0.5, criterion=criterion, round_to=8).apply(before, Context(calibration=samples(30)))
    attention, mlp = result.matches
    assert str(attention.action).startswith("1 of 2 groups of heads removed")
    assert str(mlp.action).startswith("13 of 37 neurons removed")  # 19 would stay: 24 is the next multiple of 8
    assert shapes(result.graph) == {"query": (15, 30), "key": (5, 30), "value": (7, 30), "out": (30, 21), "fc1": (24, 30), "fc2": (30, 24)}
    assert result.graph.run(samples(30)[0]).outputs[0].isfinite().all()


class Dying(nn.Module):
    def __init__(self, activation: str) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(24, 24) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(24, 40), nn.Linear(40, 24)
        self.activation = getattr(torch, activation)
        with torch.no_grad():
            self.fc1.weight[3:9] = 0
            self.fc2.weight[:, 20:25] = 0
            self.value.weight[6:12] = 0
            self.out.weight[:, 18:] = 0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (4, 6)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.fc2(self.activation(self.fc1(x)))


@every_host
@every_criterion
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_what_is_dead_goes_and_no_output_changes(host: str, criterion: str, activation: str) -> None:
    """6 of 40 neurons give the same whatever comes in, nothing reads 5 others; one head of 4 never varies, nothing reads another."""

    module = seeded(Dying, activation)
    before = hosted(host, module, 24)
    result = Structured(heads=0.01, criterion=criterion).apply(before, Context(calibration=samples(24)))
    words = [str(match.action) for match in result.matches]
    assert words[0].startswith("2 of 4 heads removed (2 dead)")
    assert words[1].startswith("11 of 40 neurons removed (11 dead)")
    for x in samples(24, 12):  # four of which nothing was calibrated on
        assert_close(result.graph.run(x).outputs[0], module(*x).detach())


def asleep() -> nn.Module:
    module = nn.Sequential(nn.Linear(16, 50), nn.ReLU(), nn.Linear(50, 8))
    with torch.no_grad():
        module.get_parameter("0.bias")[::5] = -100.0
    return module


@every_host
@pytest.mark.parametrize("criterion", ["contribution", "obs"])
def test_neurons_that_no_input_wakes(host: str, criterion: str) -> None:
    module = seeded(asleep)
    before = hosted(host, module, 16)
    result = Structured(criterion=criterion).apply(before, Context(calibration=samples(16)))
    assert shapes(result.graph) == {"0": (40, 16), "2": (8, 40)}
    for x in samples(16, 12):
        assert_close(result.graph.run(x).outputs[0], module(*x).detach())


def without_a_bias() -> nn.Module:
    module = nn.Sequential(nn.Linear(16, 20), nn.Sigmoid(), nn.Linear(20, 8, bias=False))
    with torch.no_grad():
        module.get_parameter("0.weight")[:4] = 0  # which give ½ and more
        module.get_parameter("2.weight")[:, 10:13] = 0
    return module


@every_host
@every_criterion
def test_without_a_bias_constants_are_not_dead(host: str, criterion: str) -> None:
    module = seeded(without_a_bias)
    before = hosted(host, module, 16)
    result = Structured(criterion=criterion).apply(before, Context(calibration=samples(16)))
    assert shapes(result.graph) == {"0": (17, 16), "2": (8, 17)}
    for x in samples(16):
        assert_close(result.graph.run(x).outputs[0], module(*x).detach())


def apart(one: Graph, other: Graph, inputs: list[tuple[Tensor]]) -> float:
    return sum(float((one.run(x).outputs[0] - other.run(x).outputs[0]).square().sum()) for x in inputs)


@every_host
def test_what_calibration_is_good_for(host: str) -> None:
    """Inputs that live on few directions: neurons can do each other's work."""
    mix = torch.randn(5, 32, generator=torch.Generator().manual_seed(99))
    given = [(torch.randn(2, 10, 5, generator=torch.Generator().manual_seed(i)) @ mix,) for i in range(40)]
    before = graph(host, "transformer")
    errors = [
        apart(Structured(neurons=0.5, criterion=criterion).apply(before, Context(calibration=given[:30])).graph, before, given[30:])
        for criterion in CRITERIA
    ]
    assert errors[1] < errors[0]
    assert errors[2] < 0.5 * errors[1]


def in_a_row() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 4))


@every_host
@every_criterion
def test_layers_in_a_row_and_shares_of_what_came(host: str, criterion: str) -> None:
    """The layer in the middle loses columns, then rows. A second time nothing is left to do; a larger share takes the difference."""
    before = hosted(host, seeded(in_a_row), 8)
    context = Context(calibration=samples(8), original=before)
    once = Structured(neurons=0.25, criterion=criterion).apply(before, context)
    assert shapes(once.graph) == {"0": (24, 8), "2": (18, 24), "4": (4, 18)}
    twice = Structured(neurons=0.25, criterion=criterion).apply(once.graph, context)
    assert not twice.modified
    assert "has 24 of the 32 neurons" in str(twice.matches[0].refused)
    more = Structured(neurons=0.5, criterion=criterion).apply(once.graph, context)
    assert shapes(more.graph) == {"0": (16, 8), "2": (12, 16), "4": (4, 12)}


@every_host
def test_copies_and_files(host: str, tmp_path: Path) -> None:
    load, file = LOADERS[host]
    after = Structured(neurons=0.3, heads=0.25).apply(graph(host, "transformer")).graph
    after.save(tmp_path / file)
    again = load(tmp_path / file)
    x = (model("transformer")[1],)
    assert shapes(again) == shapes(after) == shapes(after.copy())
    assert torch.equal(again.run(x).outputs[0], after.run(x).outputs[0])
    assert [site.heads for site in again.sites(Attention)] == [3]


@every_host
@pytest.mark.parametrize("method", ["reconstruction", "distillation"])
def test_recovery(host: str, method: str) -> None:
    """The second layers learn from the dense ones; the first ones, which have lost outputs, with the whole model only."""
    if host == "onnx" and method == "distillation":
        pytest.skip("gradients do not flow through ONNX")
    mix = torch.randn(5, 32, generator=torch.Generator().manual_seed(99))
    given = [(torch.randn(2, 10, 5, generator=torch.Generator().manual_seed(i)) @ mix,) for i in range(34)]
    before = graph(host, "transformer")
    context = Context(calibration=given[:30], original=before)
    smaller = Structured(neurons=0.5, heads=0.25).apply(before, context).graph
    result = Recover(method=method, steps=150, learning_rate=3e-3, variations=1).apply(smaller, context)
    words = {match.site.name: str(match.refused or match.action) for match in result.matches}
    assert words["fc2"].startswith("recovered")
    assert words["out"].startswith("recovered")
    if method == "reconstruction":
        assert "it has 64 of the 128 outputs of the dense layer; distillation can recover it" in words["fc1"]
    else:
        assert words["fc1"].startswith("recovered")
    assert shapes(result.graph) == shapes(smaller)
    assert apart(result.graph, before, given[30:]) < 0.7 * apart(smaller, before, given[30:])


@every_host
def test_passes_that_follow(host: str) -> None:
    """Permuted, pruned, recovered and packed, as any dense model."""
    recipe = {
        "passes": [
            {"structured": {"neurons": 0.25, "heads": 0.25, "criterion": "obs"}},
            {"permute": {"pattern": "4x1"}},
            {"prune": {"pattern": "4x1", "sparsity": 0.6, "min_weights": 0, "criterion": "sparsegpt"}},
            {"recover": {"variations": 0}},
            "pack",
        ]
    }
    after, results = pipeline.run(graph(host, "transformer"), Recipe.load(recipe), Context(calibration=samples(32)))
    assert [match.refused for match in results[1][1].matches] == [None]
    assert any(match.refused is None for match in results[3][1].matches)
    assert after.sites(Linear, ("fc1",))[0].packed is not None
    assert shapes(after)["fc1"] == (96, 32)
    unpacked = results[3][1].graph
    for x in samples(32, 2):
        assert_close(after.run(x).outputs[0], unpacked.run(x).outputs[0])


@every_host
def test_compiled(host: str) -> None:
    """Generated code runs the smaller model, and the report says what has become of it."""
    module, x = model("transformer")
    source, example = given(host, module, x)
    recipe = {"passes": [{"structured": {"neurons": 0.25, "heads": 0.25}}]}
    compiled = sparsecc.compile(source, example, recipe=recipe, threads=1)
    expected = Structured(neurons=0.25, heads=0.25).apply(graph(host, "transformer")).graph.run((x,)).outputs[0]
    output = compiled(x)
    assert_close(output[0] if isinstance(output, tuple) else output, expected)
    rows = {row.name: row for row in compiled.report.sites}
    assert (rows["fc1"].shape, rows["fc1"].decision) == ((96, 32), "structured")
    assert (rows["fc1"].bytes_dense, rows["fc1"].bytes_packed) == (128 * 32 * 4, 96 * 32 * 4)
    assert rows["fc2"].reason.startswith("structured: 32 of 128 neurons removed")
    assert rows["out"].shape == (32, 24)
    assert rows["head"].decision == "dense"
    [attention] = [row for row in rows.values() if row.kind == "Attention"]
    assert (attention.shape[0], attention.decision) == (3, "structured")
    totals = compiled.report.totals
    assert totals["bytes_dense"] - totals["bytes_kept"] == 4 * (2 * 32 * 32 + 4 * 8 * 32)


def test_targets_and_progress() -> None:
    seen: list[Progress] = []
    before = graph("fx", "transformer")
    by_name = Structured(targets=("mlp",), neurons=0.5, heads=0.5).apply(before, Context(progress=seen.append))
    assert [match.site.name for match in by_name.matches] == ["mlp"]
    assert [(progress.done, progress.total) for progress in seen] == [(1, 1)]
    assert [match.site.name for match in Structured(targets=("fc1",)).find(before, Context())] == ["mlp"]
    assert [match.site.name for match in Structured(targets=("Attention",), heads=0.5).find(before, Context())] == ["attention"]
    assert list(Structured(ignore=("re:.*",), heads=0.5).find(before, Context())) == []
    with pytest.raises(RecipeError, match="matches no layer"):
        Structured(targets=("fc3",)).apply(before)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"neurons": 1.0}, "neurons"),
        ({"neurons": -0.1}, "neurons"),
        ({"heads": 1.5}, "heads"),
        ({"dead": 1.0}, "dead"),
        ({"criterion": "wanda"}, "criterion"),
        ({"round_to": 0}, "round_to"),
        ({"targets": ("",)}, "targets"),
    ],
)
def test_bad_options(options, field: str) -> None:
    with pytest.raises(RecipeError, match=field):
        Structured(**options)


def test_calibration_that_is_missing_or_spoilt() -> None:
    before = graph("fx", "transformer")
    with pytest.raises(RecipeError, match="needs calibration inputs"):
        Structured(neurons=0.5, criterion="obs").apply(before)
    [match] = Structured(neurons=0.5, criterion="obs").apply(before, Context(calibration=[(torch.full((1, 4, 32), torch.inf),)])).matches
    assert "NaN or infinity" in str(match.refused)
    for criterion, told in (("obs", True), ("contribution", False)):  # the one inverts its Hessian
        [match] = Structured(neurons=0.5, criterion=criterion).apply(before, Context(calibration=[(torch.randn(1, 4, 32),)])).matches
        assert ("; 4 tokens for" in str(match.action)) == told


def reasons(module: nn.Module, width: int, **options) -> list[str]:
    found = FxGraph.from_module(module.eval(), samples(width)[0])
    return [str(match.refused) for match in Structured(**options).apply(found).matches]


def test_what_stays() -> None:
    plain = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 8))
    assert reasons(plain, 8) == ["layer 'mlp': none of its 30 neurons is dead"]
    assert reasons(plain, 8, neurons=0.1, round_to=32) == ["layer 'mlp': no multiple of 32 lies between the 27 neurons to keep and its 30"]
    single = nn.Sequential(nn.Linear(8, 1), nn.ReLU(), nn.Linear(1, 8))
    assert "only one of what could go" in reasons(single, 8, neurons=0.5)[0]
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    tied[2].weight = tied[0].weight
    assert "its weight serves other layers too" in reasons(tied, 8, neurons=0.5)[0]
    biased = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    biased[2].bias = biased[0].bias
    assert reasons(biased, 8, neurons=0.5) == ["None"]  # each layer has its own once it is traced


@every_host
def test_packed_layers_stay(host: str) -> None:
    recipe = Recipe.load({"passes": [{"prune": {"sparsity": 0.8, "targets": ["fc2"]}}, "pack"]})
    packed = pipeline.run(graph(host, "transformer"), recipe, Context())[0]
    [match] = Structured(neurons=0.5).apply(packed).matches
    assert match.refused is not None
    assert "fc2" in match.refused.reason


def test_all_neurons_dead_but_one() -> None:
    module = nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 8)).eval()
    with torch.no_grad():
        module.get_parameter("2.weight").zero_()
    found = FxGraph.from_module(module, samples(8)[0])
    after = Structured().apply(found).graph
    assert shapes(after) == {"0": (1, 8), "2": (8, 1)}
    assert_close(after.run(samples(8)[0]).outputs[0], module(*samples(8)[0]).detach())


def test_reordering_passes_leave_an_original_of_another_size_alone() -> None:
    before = graph("fx", "transformer")
    smaller = Structured(neurons=0.25).apply(before).graph
    result = Permute().apply(smaller, Context(original=before))
    assert result.modified
    assert result.original is not None
    assert shapes(result.original) == shapes(before)


def test_zeros_that_came_stay_where_the_others_make_up_for_what_goes() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 48))
    with torch.no_grad():
        weight = module.get_parameter("2.weight")
        weight[::2] = weight[::2].masked_fill(torch.rand(24, 64) < 0.5, 0)
    graph, zeros = FxGraph.from_module(module, (torch.randn(3, 32),)), []
    for keep_zeros in (True, False):
        step = Structured(neurons=0.25, criterion="obs", dead=0.0, keep_zeros=keep_zeros)
        result = step.apply(graph, Context([(torch.randn(200, 32),)]))
        zeros.append(float((result.graph.sites(Linear)[1].weight == 0).double().mean()))
    assert zeros[0] > 0.2
    assert zeros[1] < 0.01
