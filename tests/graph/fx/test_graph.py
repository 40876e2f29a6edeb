"""The torch host as passes see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsecc.errors import InputError, ModelError, UserError
from sparsecc.formats import storing
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Attention, Conv2d, Linear, Mlp, WeightSite
from sparsecc.ops.base import SiteOp
from sparsecc.ops.sparse_conv2d.torch import SparseConv2d
from sparsecc.ops.sparse_linear.torch import SparseLinear
from sparsecc.ops.structured_linear.torch import StructuredLinear
from sparsecc.patterns import parse
from sparsecc.runtime.outputs import rebuild
from sparsecc.structures.monarch import Monarch
from tests.graph.fx_models import ConvNet, ManyOutputs, case, tokens
from tests.tolerance import assert_close

ALL_CASES = ("mlp", "conv", "tied", "spellings", "bert", "llama", "vit")


def run_module(module: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        output = module(**inputs) if isinstance(inputs, dict) else module(*inputs)
    return [output] if isinstance(output, Tensor) else list(output.to_tuple())


def packed(site: WeightSite, pattern: str = "unstructured") -> SiteOp:
    """The sparse operator for a site's weight as it is."""
    format = storing(parse(pattern))
    stored = format.pack(site.matrix, site.matrix != 0)
    if isinstance(site, Conv2d):
        kernel = (site.weight.shape[2], site.weight.shape[3])
        return SparseConv2d(stored, site.bias, kernel=kernel, stride=site.stride, padding=site.padding, dilation=site.dilation)
    return SparseLinear(stored, site.bias)


def prune(graph: FxGraph) -> list[WeightSite]:
    """Halve every weight that may change; returns the sites as they are now."""
    for site in graph.sites(WeightSite):
        if not site.shared:
            keep = parse("unstructured").project(site.matrix.abs(), 0.5)
            graph.set_weight(site, site.from_matrix(site.matrix * keep))
    return [site for site in graph.sites(WeightSite) if not site.shared and getattr(site, "groups", 1) == 1]


@pytest.mark.parametrize("name", ALL_CASES)
class TestEveryModel:
    def test_it_computes_what_the_module_does(self, name: str) -> None:
        module, inputs, graph = case(name)
        for actual, oracle in zip(graph.run(inputs).outputs, run_module(module, inputs), strict=True):
            assert_close(actual, oracle)

    def test_pruned_and_packed_it_is_the_masked_dense_model(self, name: str) -> None:
        _, inputs, graph = case(name)
        before = graph.run(inputs).outputs
        copy = graph.copy()
        sites = prune(copy)
        masked = copy.run(inputs).outputs
        for site in sites:
            copy.replace(site, packed(site))
        for actual, oracle in zip(copy.run(inputs).outputs, masked, strict=True):
            assert_close(actual, oracle)
        for actual, oracle in zip(graph.run(inputs).outputs, before, strict=True):
            assert torch.equal(actual, oracle), "rewriting a copy changed the original"

    def test_a_packed_site_is_the_same_site(self, name: str) -> None:
        _, _, graph = case(name)
        copy = graph.copy()
        for site in prune(copy):
            copy.replace(site, packed(site))
        before, after = graph.sites(), copy.sites()
        for attribute in ("kind", "name", "activation", "rows", "cols", "stride", "padding", "dilation"):
            assert [getattr(site, attribute, None) for site in before] == [getattr(site, attribute, None) for site in after]
        for old, new in zip(before, after, strict=True):
            if isinstance(old, WeightSite) and isinstance(new, WeightSite) and new.packed is not None:
                assert new.weight.shape == old.weight.shape
                assert bool(((new.weight == old.weight) | (new.weight == 0)).all())
                assert new.weight_name.endswith(".values")

    def test_it_can_be_specialized(self, name: str) -> None:
        module, inputs, graph = case(name)
        program = graph.specialize(inputs)
        text = str(program.graph)
        assert "sym_size" not in text
        assert "_assert" not in text
        outputs = program.module()(**inputs) if isinstance(inputs, dict) else program.module()(*inputs)
        for actual, oracle in zip(outputs, run_module(module, inputs), strict=True):
            assert_close(actual, oracle)


@pytest.mark.parametrize("name", ["conv", "spellings", "bert"])
def test_twice_is_the_same(name: str) -> None:
    module, inputs, graph = case(name)
    again = FxGraph.from_module(module, inputs)
    assert str(again.module.graph) == str(graph.module.graph)
    assert [(site.kind, site.name) for site in again.sites()] == [(site.kind, site.name) for site in graph.sites()]


def test_sites_of_bert() -> None:
    _, _, graph = case("bert")
    layer = "encoder.layer.0"
    assert [(site.kind, site.name) for site in graph.sites()] == [
        ("Linear", f"{layer}.attention.self.query"),
        ("Linear", f"{layer}.attention.self.key"),
        ("Linear", f"{layer}.attention.self.value"),
        ("Attention", f"{layer}.attention.self"),
        ("Linear", f"{layer}.attention.output.dense"),
        ("Linear", f"{layer}.intermediate.dense"),
        ("Linear", f"{layer}.output.dense"),
        ("Mlp", f"{layer}.mlp"),
        ("Linear", "pooler.dense"),
    ]
    (attention,) = graph.sites(Attention)
    assert (attention.heads, attention.kv_heads, attention.head_dim, attention.causal, attention.has_mask) == (4, 4, 8, False, True)
    assert attention.scale == pytest.approx(8**-0.5)
    (mlp,) = graph.sites(Mlp)
    assert (mlp.activation, mlp.first.rows, mlp.second.cols) == ("gelu", 64, 64)
    assert [site.activation for site in graph.sites(Linear, ("pooler.dense",))] == ["tanh"]
    assert graph.sites(Linear)[0].weight_name == f"{layer}.attention.self.query.weight"


def test_attention_that_is_written_out() -> None:
    module, inputs, graph = case("bert_eager")
    assert_close(graph.run(inputs).outputs[0], run_module(module, inputs)[0])
    assert [site.name for site in graph.sites(Linear)] == [site.name for site in case("bert")[2].sites(Linear)]


def test_sites_of_llama() -> None:
    _, _, graph = case("llama")
    linears = {site.name: site for site in graph.sites(Linear)}
    assert linears["model.layers.0.mlp.gate_proj"].activation == "silu"
    assert linears["lm_head"].shared
    assert not linears["model.layers.0.self_attn.q_proj"].shared


def test_sites_of_a_convolutional_network() -> None:
    _, _, graph = case("conv")
    stem, grouped, uneven = graph.sites(Conv2d)
    assert (stem.stride, stem.padding, stem.activation, stem.groups) == ((2, 2), (1, 1, 1, 1), "relu", 1)
    assert (grouped.groups, grouped.cols, grouped.activation) == (2, 36, "relu6")
    assert (uneven.padding, uneven.dilation, uneven.activation) == ((0, 2, 1, 2), (1, 2), "hardswish")
    assert stem.bias is not None, "the batch norm moved into the convolution"


def test_shared_weights_are_told() -> None:
    _, _, graph = case("tied")
    assert [(site.name, site.shared) for site in graph.sites(Linear)] == [
        ("twice", True),
        ("twice_1", True),
        ("same", True),
        ("own", False),
        ("head", True),
    ]


def test_layers_that_are_no_module() -> None:
    module, _, graph = case("spellings")
    linears = {site.name: site for site in graph.sites(Linear)}
    assert list(linears) == [
        "attention.in_proj_weight",
        "attention.out_proj",
        "in_out",
        "out_in",
        "normed",
    ]
    assert_close(linears["normed"].weight, module.normed.weight.detach())
    assert torch.equal(linears["in_out"].weight, module.in_out.detach().T)
    assert torch.equal(linears["out_in"].weight, module.out_in.detach())
    assert linears["in_out"].bias is not None and torch.equal(linears["in_out"].bias, module.added.detach())
    assert linears["in_out"].activation == "silu"


def test_a_structured_layer_trains_its_factors_and_keeps_its_structure() -> None:
    _, (x,), graph = case("mlp")
    copy = graph.copy()
    site = copy.sites(Linear)[0]
    copy.replace(site, StructuredLinear(Monarch(2, 2, 2).project(site.weight), site.bias))
    assert [name for name, _ in copy.module.named_parameters()] == ["fc1.bias", "fc1.right", "fc1.left", "fc2.weight", "fc2.bias"]
    optimizer = torch.optim.SGD(copy.module.parameters(), lr=0.1)
    before = copy.sites(Linear)[0].weight
    copy.module(x).square().sum().backward()
    optimizer.step()
    after = copy.sites(Linear)[0]
    assert after.form is not None
    assert after.form.storage == Monarch(2, 2, 2)
    assert not torch.equal(after.weight, before)


def test_a_rewritten_graph_trains_and_keeps_its_zeros() -> None:
    _, (x,), graph = case("mlp")
    copy = graph.copy()
    for site in prune(copy):
        copy.replace(site, packed(site))
    zeros = [site.weight == 0 for site in copy.sites(Linear)]
    optimizer = torch.optim.SGD(copy.module.parameters(), lr=0.1)
    before = copy.sites(Linear)[0].weight
    copy.module(x).square().sum().backward()
    optimizer.step()
    after = copy.sites(Linear)
    assert not torch.equal(before, after[0].weight)
    assert all(torch.equal(site.weight == 0, mask) for site, mask in zip(after, zeros, strict=True))


def test_taps_are_what_enters_a_site() -> None:
    module, inputs, graph = case("bert")
    taken: dict[str, Tensor] = {}
    module.encoder.layer[0].intermediate.dense.register_forward_pre_hook(lambda _, args: taken.update(x=args[0]))
    run_module(module, inputs)
    layer = "encoder.layer.0"
    run = graph.run(inputs, [f"{layer}.intermediate.dense", f"{layer}.attention.self", f"{layer}.mlp"])
    assert_close(run.taps[f"{layer}.intermediate.dense"][0], taken["x"])
    assert_close(run.taps[f"{layer}.mlp"][0], taken["x"])
    assert [tuple(t.shape) for t in run.taps[f"{layer}.attention.self"]] == [(1, 4, 12, 8)] * 3


def test_attention_is_not_narrowed_under_autocast() -> None:
    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(2, 3, 5, 8)
    graph = FxGraph.from_module(Attends().eval(), x)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = Attends()(x)
        [y] = graph.run_with((x,), {}).outputs
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(y, Attends()(x))


def test_who_feeds_whom() -> None:
    _, _, graph = case("bert")
    sites = graph.site_graph()
    layer = "encoder.layer.0"
    assert list(sites.nodes) == [site.name for site in graph.sites() if not isinstance(site, Mlp)]
    assert set(sites.predecessors(f"{layer}.attention.self")) == {f"{layer}.attention.self.{n}" for n in ("query", "key", "value")}
    assert set(sites.predecessors(f"{layer}.intermediate.dense")) == {f"{layer}.attention.output.dense"}
    assert set(sites.predecessors("pooler.dense")) == {f"{layer}.output.dense", f"{layer}.attention.output.dense"}


def test_other_batches_and_lengths_run() -> None:
    module, _, graph = case("bert")
    assert graph.inputs[0].shape == ("input_ids_0", "input_ids_1")
    assert graph.outputs[0].shape == ("input_ids_0", "input_ids_1", 32)
    for batch, length in ((3, 7), (1, 64), (2, 1)):
        inputs = tokens(batch, length)
        assert_close(graph.run(inputs).outputs[0], run_module(module, inputs)[0])


def test_inputs_by_position_by_name_and_from_numpy() -> None:
    _, inputs, graph = case("bert")
    expected = graph.run(inputs).outputs[0]
    assert torch.equal(graph.run(list(inputs.values())).outputs[0], expected)
    assert torch.equal(graph.run({name: value.numpy() for name, value in inputs.items()}).outputs[0], expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda given: {"input_ids": given["input_ids"]}, "'attention_mask' is missing"),
        (lambda given: {**given, "token_ids": given["input_ids"]}, "no input 'token_ids'"),
        (lambda given: {**given, "input_ids": given["input_ids"].float()}, "'input_ids' is float32, the model takes int64"),
        (lambda given: {**given, "input_ids": given["input_ids"][0]}, "'input_ids' has shape"),
        (lambda given: {**given, "attention_mask": given["attention_mask"][:, :5]}, "input_ids_1 = 5"),
        (lambda given: tokens(1, 65), "size.*<= 64"),
        (lambda given: {**given, "input_ids": given["input_ids"] + 1000}, "torch fails on these inputs"),
        (lambda given: [given["input_ids"]], "is missing; the model takes 2"),
        (lambda given: {**given, "input_ids": [1, 2]}, "'input_ids' is a list"),
    ],
)
def test_wrong_inputs_are_refused(change: Any, reason: str) -> None:
    _, inputs, graph = case("bert")
    with pytest.raises(InputError, match=reason):
        graph.run(change(inputs))


def test_outputs_keep_their_structure() -> None:
    module, x, shift = ManyOutputs(), torch.randn(2, 8), np.ones(8, np.float32)
    graph = FxGraph.from_module(module, {"x": x, "twice": True, "shift": shift})
    assert [spec.name for spec in graph.inputs] == ["x", "shift"]
    run = graph.run({"x": x, "shift": shift})
    assert len(run.outputs) == 2
    rebuilt, expected = rebuild(graph.structure, run.outputs), module(x, True, shift=torch.ones(8))
    assert_close(rebuilt["first"], expected["first"].detach())
    assert rebuilt["rest"][0] is None
    assert rebuilt["rest"][1][1] == 3
    assert type(graph.module(x=x, twice=True, shift=torch.ones(8))["rest"]) is list


def test_a_model_output_is_a_dataclass() -> None:
    _, inputs, graph = case("bert")
    rebuilt = rebuild(graph.structure, graph.run(inputs).outputs)
    assert type(rebuilt).__name__ == "BaseModelOutputWithPoolingAndCrossAttentions"
    assert rebuilt.last_hidden_state.shape == (1, 12, 32)


@pytest.mark.parametrize("name", ["spellings", "bert"])
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    _, inputs, graph = case(name)
    copy = graph.copy()
    for site in prune(copy):
        copy.replace(site, packed(site))
    copy.save(tmp_path / "model.pt2")
    loaded = FxGraph.load(tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (loaded.name, loaded.inputs, loaded.outputs, loaded.structure) == (copy.name, copy.inputs, copy.outputs, copy.structure)
    assert [(site.kind, site.name) for site in loaded.sites()] == [(site.kind, site.name) for site in copy.sites()]
    for actual, oracle in zip(loaded.run(inputs).outputs, copy.run(inputs).outputs, strict=True):
        assert torch.equal(actual, oracle)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, path = case("mlp")[2], tmp_path / "model.pt2"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(UserError, match=r"model.pt2: cannot be written: No space left"):
        graph.save(path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt2", b"old")]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_program(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model.pt2: no "):
        FxGraph.load(path)


def test_the_original_module_stays_as_it_was() -> None:
    module = ConvNet().train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    graph = FxGraph.from_module(module, (torch.randn(2, 3, 16, 16),))
    prune(graph)
    assert module.training
    assert module.norm.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_parameters_among_the_outputs() -> None:
    class Tempered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(4, 4), nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.fc(x), self.scale.exp(), self.fc.weight

    module, x = Tempered(), torch.randn(2, 4)
    outputs = FxGraph.from_exported(torch.export.export(module, (x,))).run((x,)).outputs
    assert not any(output.requires_grad for output in outputs)
    for found, expected in zip(outputs, module(x), strict=True):
        assert_close(found, expected.detach())
