from __future__ import annotations

from typing import Any

import pytest
import torch

from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError
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
    with pytest.raises(RecipeError, match=r"passes\[0\]\.quantize\.dtype: no 'int4'"):
        load(dtype="int4")
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
    with pytest.raises(RecipeError, match="calibrated needs calibration inputs"):
        Quantize(activations="calibrated").apply(FakeGraph([linear("a", 64, 48)]))
