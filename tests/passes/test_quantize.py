from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
from sparsecc.graph.fx.graph import FxGraph
from sparsecc.graph.sites import Linear
from sparsecc.passes.pack import Pack
from sparsecc.passes.prune import Prune
from sparsecc.passes.quantize import Quantize
from sparsecc.passes.substitute import Substitute
from sparsecc.recipe import Recipe
from tests.passes.fake import FakeGraph, conv, linear


def refusals(step: Quantize, *sites: Any, context: Context = Context()) -> list[str]:
    return [match.refused.reason for match in step.apply(FakeGraph(sites), context).matches if match.refused]


def test_every_linear_layer_is_rounded_and_keeps_its_bias() -> None:
    bias = torch.randn(64)
    before = FakeGraph([linear("a", 64, 48, bias=bias), linear("b", 32, 64, seed=1)])
    result = Quantize().apply(before)
    assert result.modified
    for site, old in zip(result.graph.sites(Linear), before.sites(Linear), strict=True):
        assert site.quantized is not None
        assert site.quantized.scheme.key == "int8"
        assert 0 < float((site.weight - old.weight).norm() / old.weight.norm()) < 0.01
    first = result.graph.sites(Linear)[0].bias
    assert first is not None
    assert torch.equal(first, bias)
    assert "weight error 0." in str(result.matches[0].action)


@pytest.mark.parametrize("pattern", ["1x4", "unstructured", "2:4", "4x1"])
@pytest.mark.parametrize("steps", [(Quantize(), Pack()), (Pack(), Quantize())], ids=["then packed", "packed before"])
def test_it_keeps_every_pattern(pattern: str, steps: tuple[Any, ...]) -> None:
    graph: Any = FakeGraph([linear("a", 64, 48)])
    kept = []
    for step in (Prune(pattern=pattern, sparsity=None if ":" in pattern else 0.75), *steps):
        graph = step.apply(graph).graph
        kept.append(graph.sites(Linear)[0].matrix != 0)
    site = graph.sites(Linear)[0]
    assert site.quantized.scheme.format is not None
    assert not (kept[-1] & ~kept[0]).any()
    assert kept[-1].sum() >= 0.95 * kept[0].sum()  # the smallest are rounded to zero
    assert site.quantized.nbytes < 64 * 48


@pytest.mark.parametrize(("step", "key"), [
    (Quantize(dtype="int4"), "int4:128"),
    (Quantize(dtype="int4", group=32, symmetric=False), "int4:32:asymmetric"),
    (Quantize(dtype="int4", group="row"), "int4:row"),
    (Quantize(dtype="int8_weight_only"), "int8_weight_only:row"),
    (Quantize(dtype="int8_weight_only", group=64), "int8_weight_only:64"),
])  # fmt: skip
def test_weights_alone_have_a_scale_for_each_group(step: Quantize, key: str) -> None:
    site = step.apply(FakeGraph([linear("a", 64, 150)])).graph.sites(Linear)[0]
    assert site.quantized is not None and site.quantized.scheme.key == key
    found = site.quantized.integers()
    assert found is not None and found.scales.shape == found.zeros.shape == (64, -(-150 // found.group))


@pytest.mark.parametrize("method", ["nearest", "gptq"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("packed", [False, True], ids=["then packed", "packed before"])
def test_a_pruned_weight_stays_zero_in_few_bits(method: Any, symmetric: bool, packed: bool) -> None:
    context = Context(calibration=[(torch.randn(300, 64) @ torch.randn(64, 64),)])
    quantize = Quantize(dtype="int4", group=32, symmetric=symmetric, method=method)
    graph: Any = Prune(pattern="2:4").apply(FakeGraph([linear("a", 64, 64)])).graph
    keep = graph.sites(Linear)[0].matrix != 0
    for step in (Pack(), quantize) if packed else (quantize, Pack()):
        graph = step.apply(graph, context).graph
    stored = graph.sites(Linear)[0].quantized
    assert stored is not None and stored.scheme.key == f"int4:32{'' if symmetric else ':asymmetric'}/nm:2:4"
    assert not stored.dense()[~keep].any()
    assert stored.tensors["values"].shape == (64, 16)  # 32 of 64 weights in a row, two in a byte
    found = stored.integers()
    assert found is not None
    zeros = found.zeros.repeat_interleave(found.group, dim=1)
    assert torch.equal(found.numbers[~keep], zeros[~keep])


def test_gptq_tells_what_it_gained() -> None:
    x = torch.randn(300, 48) @ torch.randn(48, 48)
    before = FakeGraph([linear("a", 64, 48)])
    text = str(Quantize(dtype="int4", method="gptq").apply(before, Context(calibration=[(x,)])).matches[0].action)
    ours, nearest = (float(part.partition("%")[0]) for part in text.partition("output error ")[2].split("by gptq instead of "))
    assert ours < nearest
    assert "tokens for" not in text
    few = Quantize(dtype="int4", method="gptq").apply(before, Context(calibration=[(x[:20],)])).matches[0]
    assert "20 tokens for 48 inputs" in str(few.action)


def test_gptq_calibrates_a_layer_on_what_those_before_it_give_by_then() -> None:
    last, x = torch.nn.Linear(64, 32), torch.randn(300, 48) @ torch.randn(48, 48)
    layers = torch.nn.Sequential(torch.nn.Linear(48, 64), last)
    step = Quantize(dtype="int4", group="row", method="gptq")
    first, second = step.apply(FxGraph.from_module(layers, (x,)), Context(calibration=[(x,)])).graph.sites(Linear)
    assert first.bias is not None and first.quantized is not None and second.quantized is not None
    entering = (torch.nn.functional.linear(x, first.weight, first.bias)).double()
    expected = second.quantized.scheme.precision.quantize_for(last.weight.detach(), entering.T @ entering)
    assert float((second.quantized.values() != expected.values()).float().mean()) < 0.01  # a sum in another order may tip a weight


def test_gptq_leaves_alone_what_calibration_says_nothing_of() -> None:
    step = Quantize(dtype="int4", method="gptq")
    for value, reason in ((torch.nan, "its calibration inputs hold NaN or infinity"), (0.0, "its calibration inputs are all zero")):
        context = Context(calibration=[(torch.full((1, 48), value),)])
        assert refusals(step, linear("a", 64, 48), context=context) == [reason]
    odd = linear("nan", 64, 48)
    odd.weight[0, 0] = torch.inf
    assert refusals(step, odd, context=Context(calibration=[(torch.randn(9, 48),)])) == ["its weight holds NaN or infinity"]


def test_the_largest_input_of_all_samples_sets_the_scale() -> None:
    context = Context(calibration=[(torch.ones(2, 48),), (torch.full((1, 48), -3.0),)])
    result = Quantize(activations="calibrated").apply(FakeGraph([linear("a", 64, 48)]), context)
    stored = result.graph.sites(Linear)[0].quantized
    assert stored is not None
    assert float(stored.tensors["input_scale"]) == pytest.approx(3 / 127)


@pytest.mark.parametrize(("step", "destination", "key", "largest"), [
    (Quantize(), "code", "int8", 127),
    (Quantize(), "onnx", "int8:7", 64),
    (Quantize(weight_bits=8), "onnx", "int8", 127),
    (Quantize(weight_bits=7), "code", "int8:7", 64),
    (Quantize(dtype="bfloat16"), "onnx", "bfloat16", None),
])  # fmt: skip
def test_an_onnx_file_gets_weights_whose_products_cannot_saturate(step: Quantize, destination: Any, key: str, largest: int | None) -> None:
    result = step.apply(FakeGraph([linear("a", 64, 48)]), Context(destination=destination))
    stored = result.graph.sites(Linear)[0].quantized
    assert stored is not None and stored.scheme.key == key
    assert largest is None or int(stored.values().abs().max()) == largest


def test_what_it_leaves_alone() -> None:
    odd = linear("nan", 64, 48)
    odd.weight[0, 0] = torch.nan
    assert refusals(Quantize(), conv("c", 64, 16)) == ["convolutions have no quantized operator"]
    assert refusals(Quantize(), linear("small", 4, 8)) == ["32 weights are fewer than min_weights 1024"]
    assert refusals(Quantize(), odd) == ["its weight holds NaN or infinity"]
    [structured] = Substitute(structure="low_rank").apply(FakeGraph([linear("s", 64, 48)])).graph.sites(Linear)
    assert refusals(Quantize(), structured)[0].startswith("already structured as low_rank")
    [done] = Quantize().apply(FakeGraph([linear("q", 64, 48)])).graph.sites(Linear)
    assert refusals(Quantize(), done) == ["already quantized as int8"]
    for value, reason in ((torch.nan, "its calibration inputs hold NaN or infinity"), (0.0, "its calibration inputs are all zero")):
        context = Context(calibration=[(torch.full((1, 48), value),)])
        assert refusals(Quantize(activations="calibrated"), linear("a", 64, 48), context=context) == [reason]


def test_in_onnx_float16_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no cast in the functions that are written."""
    half = linear("a", 64, 48, stored=torch.randn(64, 48).half())
    assert Quantize().apply(FakeGraph([half])).modified
    monkeypatch.setattr(FakeGraph, "quantizes_only_float32", True)
    reason = "its weight is float16, quantize takes float32 in ONNX models; convert the model to float32 first"
    assert refusals(Quantize(), half) == [reason]
    assert refusals(Quantize(dtype="bfloat16"), half) == [reason]
    assert refusals(Quantize(), Pack().apply(Prune(sparsity=0.8).apply(FakeGraph([half])).graph).graph.sites(Linear)[0]) == [reason]


def test_wrong_fields_and_missing_calibration() -> None:
    def load(**fields: Any) -> Recipe:
        return Recipe.load({"passes": [{"quantize": fields}]})

    assert load().passes == (Quantize(),)
    with pytest.raises(RecipeError, match=r"passes\[0\]\.quantize\.dtype: no 'int5'; did you mean 'int"):
        load(dtype="int5")
    with pytest.raises(RecipeError, match="bfloat16 has no scales"):
        load(dtype="bfloat16", activations="calibrated")
    with pytest.raises(RecipeError, match="activations"):
        load(activations="per_channel")
    with pytest.raises(RecipeError, match="weight_bits: 6 is none of 8, 7"):
        load(weight_bits=6)
    with pytest.raises(RecipeError, match="weight_bits: bfloat16 has no other"):
        load(weight_bits=7, dtype="bfloat16")
    with pytest.raises(RecipeError, match="min_weights: -1 is negative"):
        load(min_weights=-1)
    with pytest.raises(RecipeError, match="group: int8 has no groups; leave it out, or take dtype: int8_weight_only"):
        load(group=128)
    with pytest.raises(RecipeError, match=r"group: bfloat16 has no groups; leave it out$"):
        load(dtype="bfloat16", group="row")
    with pytest.raises(RecipeError, match="group: 48 is none of 32, 64, 128, row"):
        load(dtype="int4", group=48)
    with pytest.raises(RecipeError, match="group: expected"):
        load(dtype="int4", group="rows")
    with pytest.raises(RecipeError, match="symmetric: weights in int8 have no zero points; leave it out, or take dtype: int8_weight_only"):
        load(symmetric=False)
    with pytest.raises(RecipeError, match="method: int8 knows nearest alone; leave it out, or take dtype: int8_weight_only"):
        load(method="gptq")
    with pytest.raises(RecipeError, match="method: expected 'nearest' or 'gptq'"):
        load(dtype="int4", method="awq")
    with pytest.raises(RecipeError, match="device: nearest rounds each weight where it lies; leave it out"):
        load(dtype="int4", device="cpu")
    with pytest.raises(RecipeError, match="device: 'gpu' is no device of torch"):
        load(dtype="int4", method="gptq", device="gpu")
    with pytest.raises(RecipeError, match="activations: int4 is of weights alone, and leaves inputs as they are; leave it out"):
        load(dtype="int4", activations="per_token")
    with pytest.raises(RecipeError, match="activations: int4 has no scales that could be calibrated"):
        load(dtype="int4", activations="calibrated")
    with pytest.raises(RecipeError, match="weight_bits: int4 has no other"):
        load(dtype="int4", weight_bits=4)
    with pytest.raises(RecipeError, match="gptq needs calibration inputs"):
        Quantize(dtype="int4", method="gptq").apply(FakeGraph([linear("a", 64, 48)]))
    with pytest.raises(RecipeError, match="calibrated needs calibration inputs"):
        Quantize(activations="calibrated").apply(FakeGraph([linear("a", 64, 48)]))
