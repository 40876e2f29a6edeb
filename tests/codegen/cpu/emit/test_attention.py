"""Block-sparse attention through `sparsecc.compile`: causal, under a mask, with shared keys, on both hosts, in each precision, and what the
report says of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import sparsecc
from sparsecc.codegen.choose import Choice, Chooser, Skipping, SkippingWay
from sparsecc.codegen.cpu.target import detect, parse
from tests.graph.onnx_models import run
from tests.tolerance import assert_close

BATCH, HEADS, KV_HEADS, TOKENS, DIM, BLOCK, WINDOW = 2, 4, 2, 37, 16, 4, 9
HERE = detect(1)
MOST = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 3e-2}  # of the largest output, against float64


class TwoAttentions(nn.Module):
    """Heads that share keys and values: causal, and under a mask of keys."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        causal = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return causal, scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def onnx_model() -> onnx.ModelProto:
    """The same in nodes of opset 23."""
    shapes = {name: [BATCH, heads, TOKENS, DIM] for name, heads in zip("qkv", (HEADS, KV_HEADS, KV_HEADS), strict=True)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, [BATCH, 1, 1, TOKENS]))
    wide = helper.make_node("Expand", ["mask", "size"], ["wide"])
    size = helper.make_node("Constant", [], ["size"], value_ints=[BATCH, 1, TOKENS, TOKENS])
    nodes = [
        helper.make_node("Attention", ["q", "k", "v"], ["causal"], is_causal=1),
        size,
        wide,
        helper.make_node("Attention", ["q", "k", "v", "wide"], ["masked"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes["q"]) for name in ("causal", "masked")]
    graph = helper.make_graph(nodes, "attentions", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


@cache
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(BATCH, heads, TOKENS, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return q, k, v, torch.rand(BATCH, 1, 1, TOKENS, generator=generator) < 0.7


def recipe_of(precision: str) -> dict[str, Any]:
    return {"passes": [{"reorder_tokens": {"pattern": f"sliding_window:{WINDOW}", "block": BLOCK, "precision": precision}}]}


def compiled(host: str, precision: str, target: str = "cpu") -> Any:
    recipe = recipe_of(precision)
    if host == "fx":
        calibration = [inputs()]
        return sparsecc.compile(TwoAttentions(), inputs(), recipe=recipe, calibration=calibration, threads=1, target=target)
    return sparsecc.compile(onnx_model(), recipe=recipe, threads=1, target=target)


@cache
def expected() -> list[Tensor]:
    """In float64, with the window as a mask of tokens."""
    q, k, v, mask = inputs()
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
    block, reach = torch.arange(TOKENS) // BLOCK, -(-WINDOW // BLOCK)
    near = (block[:, None] - block).abs() <= reach
    return [
        scaled_dot_product_attention(q.double(), k.double(), v.double(), seen).float()
        for seen in (near & torch.ones_like(near).tril(), near & mask)
    ]


@pytest.mark.parametrize("host", ["fx", "onnx"])
@pytest.mark.parametrize("precision", MOST)
def test_causal_and_masked_attention_of_shared_keys_runs_on_the_kernel(host: str, precision: str) -> None:
    found = compiled(host, precision)
    for row in found.report.sites:
        assert row.decision == "sparse"
        assert row.kernel.startswith("block_attention 4x4")
        assert row.dtype == precision
        assert (f"in {precision}" in row.reason) is (precision != "float32")
    assert len(found.report.sites) == 2
    outputs = found(*(x.numpy() for x in inputs())) if host == "onnx" else found(*inputs())
    for got, right in zip(outputs, expected(), strict=True):
        got = torch.as_tensor(np.asarray(got))
        assert (got - right).abs().max() <= MOST[precision] * right.abs().max()


def test_a_converted_file_keeps_its_precision() -> None:
    converted, report = sparsecc.convert(onnx_model(), recipe_of("int8"))
    assert report.check is not None and report.check.max_rel < 1e-5
    q, k, v, mask = (x.numpy() for x in inputs())
    stock = run(converted, q=q, k=k, v=v, mask=mask)
    found = sparsecc.compile(converted, threads=1)
    assert [row.format for row in found.report.sites] == ["int8/block_map"] * 2
    for got, theirs, right in zip(found(q, k, v, mask), stock, expected(), strict=True):
        assert np.abs(np.asarray(got) - theirs).max() <= MOST["int8"] * np.abs(theirs).max()
        assert 0 < (torch.from_numpy(theirs) - right).abs().max() <= MOST["int8"] * right.abs().max()


def test_a_cpu_that_does_not_multiply_bfloat16_computes_in_float32_and_says_so() -> None:
    if reason := parse("cpu:haswell", 1).cannot_run:
        pytest.skip(reason)
    found = compiled("fx", "bfloat16", target="cpu:haswell")
    for row in found.report.sites:
        assert row.kernel == "block_attention 4x4 float32"
        assert row.reason.endswith("not measured: the target is not this machine, this CPU does not multiply bfloat16")
    for got, right in zip(found(*inputs()), expected(), strict=True):
        assert_close(torch.as_tensor(np.asarray(got)), right)


def chosen(monkeypatch: pytest.MonkeyPatch, us: dict[str, float], asked: str = "bfloat16", measure: bool = True) -> tuple[str, Choice]:
    """us: by number format, and of dense attention last."""
    chooser = Chooser(HERE, measure=measure)
    monkeypatch.setattr(chooser, "_timed", lambda *calls: [us[name] for name in (*ways, "dense")])
    monkeypatch.setattr(chooser, "_bound_of", lambda flops, size: 1.0)
    nothing: Callable[..., None] = lambda tape: None  # noqa: E731
    ways = {name: SkippingWay(f"kernel {name}", nothing, {name: 100.0}, 10.0) for name in us if name != "dense"}
    found = chooser.choose_skipping(Skipping("attn", asked, ways, nothing, key="key", parts=2, density=0.5))
    [choice] = chooser.choices
    return found, choice


def test_the_faster_precision_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    found, choice = chosen(monkeypatch, {"bfloat16": 10.0, "float32": 20.0, "dense": 40.0})
    assert (found, choice.kernel, choice.measured_us, choice.dense_us) == ("bfloat16", "kernel bfloat16", 20.0, 80.0)
    assert choice.predicted_us == 80.0 * 0.5 / 2
    assert choice.reason == "bfloat16: 4.00x as fast as dense float32, 2.00x as fast as float32"


def test_float32_stays_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    found, choice = chosen(monkeypatch, {"bfloat16": 20.0, "float32": 10.0, "dense": 40.0})
    assert (found, choice.kernel, choice.measured_us) == ("float32", "kernel float32", 20.0)
    assert choice.reason == "bfloat16: 2.00x as fast as dense float32, float32 is 2.00x as fast"


@pytest.mark.parametrize("measure", [True, False])
def test_what_the_cpu_lacks_is_said(monkeypatch: pytest.MonkeyPatch, measure: bool) -> None:
    found, choice = chosen(monkeypatch, {"float32": 10.0, "dense": 40.0}, measure=measure)
    assert found == "float32"
    assert choice.reason.endswith("this CPU does not multiply bfloat16")
