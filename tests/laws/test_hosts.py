"""Every host keeps the protocol of `Graph`: it refuses the same with the same words, and what is shared stays others'."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.errors import InputError, RecipeError, UserError
from sparsecc.formats import storing
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention, Linear, Mlp, Site
from sparsecc.ops.base import Operator
from sparsecc.ops.block_attention.torch import BlockAttention
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.patterns import parse
from tests.laws.hosts import HOSTS
from tests.tolerance import assert_close

S = TypeVar("S", bound=Site)
WIDTH, HEADS, TOKENS = 8, 2, 6
every_host = pytest.mark.parametrize("host", HOSTS)


class Tied(nn.Module):
    """Two layers that share a weight, attention, an Mlp, and a head without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight
        self.qkv = nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(functional.relu(self.first(x)))
        q = self.qkv(x).reshape(1, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)
        x = x + functional.scaled_dot_product_attention(q, q, q).transpose(1, 2).reshape(1, TOKENS, WIDTH)
        return self.head(self.fc2(functional.gelu(self.fc1(x))))


@cache
def model() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tied().eval(), torch.randn(1, TOKENS, WIDTH)


@cache
def graph(host: str) -> Graph:
    """Not to be modified."""
    return HOSTS[host](*model())


def layer(of: Graph, name: str) -> Linear:
    return one(of, Linear, name)


def one(of: Graph, kind: type[S], name: str = "re:.*") -> S:
    return of.sites(kind, (name,))[0]


def packed(matrix: Tensor, bias: Tensor | None = None) -> SparseLinear:
    return SparseLinear(storing(parse("unstructured")).pack(matrix, matrix != 0), bias)


def blocks(heads: int) -> BlockAttention:
    grid = Grid(1, 2, TOKENS // 2)
    count = grid.blocks(2)
    map = BlockMap(grid, 2, torch.zeros(heads, dtype=torch.uint8), torch.ones(heads, count, count, dtype=torch.bool))
    return BlockAttention(map, 1.0)


def convolution() -> Operator:
    return SparseConv2d(packed(torch.eye(WIDTH)).stored)


ELSEWHERE = Linear(name="fc3", stored=torch.ones(WIDTH, WIDTH), bias=torch.ones(WIDTH))
X = torch.zeros(1, TOKENS, WIDTH)
# The method, what is wrong, and a call of it: of a graph whose `fc2` is packed.
WRONG: dict[tuple[str, str], Callable[[Graph], Any]] = {
    ("now", "unknown"): lambda g: g.now(ELSEWHERE),
    ("set_weight", "unknown"): lambda g: g.set_weight(ELSEWHERE, torch.ones(WIDTH, WIDTH)),
    ("set_weight", "shape"): lambda g: g.set_weight(layer(g, "fc1"), torch.ones(3, 3)),
    ("set_weight", "transposed"): lambda g: g.set_weight(layer(g, "fc1"), layer(g, "fc1").weight.T),
    ("set_weight", "site of another graph"): lambda g: g.set_weight(
        Linear(name="fc1", stored=torch.ones(3, 3)), torch.ones(3, 3)
    ),
    ("set_weight", "attention"): lambda g: g.set_weight(cast("Any", one(g, Attention)), torch.ones(3, 3)),
    ("set_weight", "mlp"): lambda g: g.set_weight(cast("Any", mlp(g)), torch.ones(3, 3)),
    ("set_weight", "replaced"): lambda g: g.set_weight(layer(g, "fc2"), layer(g, "fc2").weight),
    ("set_weight", "replaced since"): lambda g: g.set_weight(stale(g), stale(g).weight),
    ("set_bias", "unknown"): lambda g: g.set_bias(ELSEWHERE, torch.ones(WIDTH)),
    ("set_bias", "none"): lambda g: g.set_bias(layer(g, "fc1"), cast("Any", None)),
    ("set_bias", "none where there is none"): lambda g: g.set_bias(layer(g, "head"), cast("Any", None)),
    ("set_bias", "shape"): lambda g: g.set_bias(layer(g, "fc1"), torch.ones(3)),
    ("set_bias", "has none"): lambda g: g.set_bias(layer(g, "head"), torch.ones(5)),
    ("set_bias", "replaced"): lambda g: g.set_bias(layer(g, "fc2"), torch.ones(WIDTH)),
    ("source", "unknown"): lambda g: g.source(ELSEWHERE),
    ("source", "attention"): lambda g: g.source(cast("Any", one(g, Attention))),
    ("source", "replaced"): lambda g: g.source(layer(g, "fc2")),
    ("gather_inputs", "unknown"): lambda g: g.gather_inputs(ELSEWHERE, torch.arange(WIDTH)),
    ("gather_inputs", "too few"): lambda g: g.gather_inputs(layer(g, "fc1"), torch.arange(3)),
    ("gather_inputs", "twice"): lambda g: g.gather_inputs(layer(g, "fc1"), torch.zeros(WIDTH, dtype=torch.int64)),
    ("gather_inputs", "floats"): lambda g: g.gather_inputs(layer(g, "fc1"), torch.ones(WIDTH)),
    ("gather_inputs", "replaced"): lambda g: g.gather_inputs(layer(g, "fc2"), torch.arange(2 * WIDTH)),
    ("replace", "unknown"): lambda g: g.replace(ELSEWHERE, packed(ELSEWHERE.weight)),
    ("replace", "shape"): lambda g: g.replace(layer(g, "fc1"), packed(torch.eye(3))),
    ("replace", "bias"): lambda g: g.replace(layer(g, "fc1"), packed(layer(g, "fc1").weight, torch.ones(3))),
    ("replace", "an attention by a layer"): lambda g: g.replace(one(g, Attention), packed(torch.eye(3))),
    ("replace", "a layer by an attention"): lambda g: g.replace(layer(g, "fc1"), blocks(HEADS)),
    ("replace", "a layer by a convolution"): lambda g: g.replace(layer(g, "qkv"), convolution()),
    ("replace", "an mlp"): lambda g: g.replace(mlp(g), packed(torch.eye(3))),
    ("replace", "heads"): lambda g: g.replace(one(g, Attention), blocks(3)),
    ("channels", "unknown"): lambda g: g.channels(cast("Any", ELSEWHERE)),
    ("channels", "layer"): lambda g: g.channels(cast("Any", layer(g, "fc1"))),
    ("narrow", "unknown"): lambda g: narrow(g, [0], site=ELSEWHERE),
    ("narrow", "refused"): lambda g: narrow(g, [0], site=one(g, Attention)),
    ("narrow", "none left"): lambda g: narrow(dense(g), []),
    ("narrow", "beyond"): lambda g: narrow(dense(g), [0, 2 * WIDTH]),
    ("narrow", "order"): lambda g: narrow(dense(g), [1, 0]),
    ("narrow", "twice"): lambda g: narrow(dense(g), [1, 1]),
    ("narrow", "weight"): lambda g: narrow(dense(g), [0, 1], weight=torch.ones(WIDTH, 3)),
    ("narrow", "bias"): lambda g: narrow(dense(g), [0, 1], bias=torch.ones(3)),
    ("sites", "targets"): lambda g: g.sites(Linear, ("re:(",)),
    ("run", "tap"): lambda g: g.run([X], ["fc3"]),
    ("run", "too few"): lambda g: g.run([]),
    ("run", "too many"): lambda g: g.run([X, X]),
    ("run", "name"): lambda g: g.run({"y": X}),
    ("run", "NaN"): lambda g: g.run([X * torch.nan]),
    ("run", "dtype"): lambda g: g.run([X.double()]),
    ("run", "rank"): lambda g: g.run([X[0]]),
    ("run", "size"): lambda g: g.run([X[..., :3]]),
    ("run", "list"): lambda g: g.run([X.tolist()]),
    ("walk", "tap"): lambda g: list(g.walk([[X]], ["fc3"])),
    ("walk", "too few"): lambda g: list(g.walk([[X], []], ["fc1"])),
    ("walk", "NaN"): lambda g: list(g.walk([[X * torch.nan]], ["fc1"])),
    ("as_it_came", "too many"): lambda g: g.as_it_came([[X, X]]),
    ("as_it_came", "forgotten"): lambda g: forgotten(g).as_it_came([[X]]),
    ("save", "no folder"): lambda g: g.save("/nowhere/at/all"),
    ("save", "a folder"): lambda g: g.save(Path(__file__).parent),
}  # fmt: skip
INPUT = {"run", "walk", "as_it_came"}  # methods whose other refusals are of inputs
NEVER = {"unseen", "embeddings", "tensors", "site_graph", "copy", "forget_file", "random", "inputs", "outputs"}  # they take nothing


def mlp(of: Graph) -> Mlp:
    """As it was while it was one."""
    return one(graph(of.host), Mlp)


def stale(of: Graph) -> Linear:
    """The layer before it was packed."""
    return layer(graph(of.host), "fc2")


def dense(of: Graph) -> Graph:
    return graph(of.host).copy()


def forgotten(of: Graph) -> Graph:
    of.forget_file()
    return of


def narrow(of: Graph, units: list[int], site: Site | None = None, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
    weight = torch.ones(WIDTH, len(units)) if weight is None else weight
    of.narrow(cast("Any", site or one(of, Mlp)), torch.tensor(units, dtype=torch.int64), weight, bias)


def prepared(host: str) -> Graph:
    """A graph whose `fc2` is packed: an Mlp still, but for hosts that say otherwise."""
    made = graph(host).copy()
    site = layer(made, "fc2")
    made.replace(site, packed(site.weight, site.bias))
    return made


@cache
def refusals(host: str) -> dict[tuple[str, str], tuple[type[Exception], str]]:
    """What each wrong call raises, without the host's own names of the model and of its attention."""
    found, attention = {}, f"'{one(graph(host), Attention).name}'"
    for case, call in WRONG.items():
        made = prepared(host)
        with pytest.raises(Exception) as caught:  # which one is the question
            call(made)
        found[case] = (caught.type, str(caught.value).replace(attention, "'ATTENTION'").replace(made.where, "MODEL"))
    return found


@every_host
@pytest.mark.parametrize("case", WRONG, ids=" ".join)
def test_every_host_refuses_with_one_error_and_one_sentence(host: str, case: tuple[str, str]) -> None:
    kind, words = refusals(host)[case]
    method, what = case
    expected = RecipeError if method == "sites" else InputError if method in INPUT and what not in ("tap", "forgotten") else UserError
    assert kind is expected, words
    assert (kind, words) == refusals(next(iter(HOSTS)))[case]
    assert "\n" not in words
    if what in ("unknown", "tap"):
        assert words.startswith("no site 'fc3' in MODEL; did you mean 'fc")
    else:
        assert re.search(r"fc1|fc2|head|qkv|ATTENTION|mlp|input|targets|MODEL|laws|nowhere", words), words


@every_host
def test_a_refusal_changes_nothing(host: str) -> None:
    made = prepared(host)
    before = str(made), made.run([model()[1]]).outputs[0]
    for (method, _), call in WRONG.items():
        if method in ("set_weight", "set_bias", "gather_inputs", "replace", "narrow"):
            with pytest.raises(UserError):
                call(made)
    assert str(made) == before[0]
    assert torch.equal(made.run([model()[1]]).outputs[0], before[1])


def test_every_method_is_called_wrongly() -> None:
    methods = {name for name, value in vars(Graph).items() if not name.startswith("_") and (callable(value) or isinstance(value, property))}
    assert {method for method, _ in WRONG} == methods - NEVER


@every_host
def test_a_shared_weight_stays_the_others(host: str) -> None:
    changed, x = graph(host).copy(), model()[1]
    first, second = layer(changed, "first"), layer(changed, "second")
    assert first.shared
    assert second.shared
    new = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    changed.set_weight(second, new)
    assert torch.equal(layer(changed, "first").weight, first.weight)
    assert torch.equal(layer(changed, "second").weight, new)
    assert not layer(changed, "first").shared
    assert not layer(changed, "second").shared
    [entered] = changed.run([x], ["second"]).taps["second"]
    [left] = changed.run([x], ["qkv"]).taps["qkv"]
    assert_close(left, functional.linear(entered, new, second.bias))
    assert torch.equal(layer(graph(host), "second").weight, second.weight)


@every_host
def test_a_shared_weight_that_is_set_during_a_walk_counts_from_there_on(host: str) -> None:
    changed, x = graph(host).copy(), model()[1]
    seen: dict[str, Tensor] = {}
    for name, [(entering,)] in changed.walk([[x]], ["first", "second", "qkv"]):
        seen[name] = entering
        if name != "qkv":
            changed.set_weight(layer(changed, name), torch.full((WIDTH, WIDTH), 0.5 if name == "first" else 0.25))
    taps = changed.run([x], list(seen)).taps
    for name, entering in seen.items():
        assert_close(entering, taps[name][0])


@every_host
def test_a_replaced_layer_leaves_the_shared_weight_to_the_other(host: str) -> None:
    changed = graph(host).copy()
    site = layer(changed, "first")
    changed.replace(site, packed(site.weight, site.bias))
    assert layer(changed, "first").form is not None
    assert layer(changed, "second").form is None
    assert not layer(changed, "second").shared
    assert_close(changed.run([model()[1]]).outputs[0], graph(host).run([model()[1]]).outputs[0])


@every_host
def test_a_weight_and_a_bias_take_the_layers_dtype_and_no_other_layer(host: str) -> None:
    changed = graph(host).copy()
    site = layer(changed, "fc1")
    changed.set_bias(site, torch.ones(site.rows, dtype=torch.float64))
    changed.set_weight(site, torch.zeros(site.shape, dtype=torch.float64))
    now = layer(changed, "fc1")
    assert (now.weight.dtype, now.weight.any().item()) == (torch.float32, False)
    assert now.bias is not None
    assert (now.bias.dtype, now.bias.eq(1).all().item()) == (torch.float32, True)
    for name in ("first", "second", "qkv", "fc2", "head"):
        assert torch.equal(layer(changed, name).weight, layer(graph(host), name).weight)


@every_host
def test_a_site_means_the_layer_of_its_name_in_any_copy(host: str) -> None:
    whole = graph(host)
    changed, site = whole.copy(), layer(whole, "fc1")
    changed.set_weight(site, torch.zeros(site.shape))
    changed.set_weight(site, torch.ones(site.shape))  # as it was, twice
    assert layer(changed, "fc1").weight.eq(1).all()
    assert layer(whole, "fc1").weight.equal(site.weight)
    assert changed.now(site).name == "fc1"
