"""Plans recorded from and played by diffusers' own classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparsecc.attention.base import Asked, BlockMap, Grid, Sample, required
from sparsecc.attention.paro import Paro
from sparsecc.attention.plan import Plan, Planned, fingerprint
from sparsecc.calibration.context import Context
from sparsecc.errors import InputError, RecipeError, UserError
from sparsecc.graph.fx import FxGraph
from sparsecc.graph.inputs import bind
from sparsecc.integrations.diffusers import apply, record, remove
from sparsecc.integrations.play import Player
from sparsecc.integrations.processors import attention, sizes
from sparsecc.passes.reorder_tokens import ReorderTokens
from tests.integrations.tiny import MODELS, TEXT, Tiny
from tools.reference import DOCS

BLOCK = 8


@pytest.fixture(params=MODELS)
def tiny(request: pytest.FixtureRequest) -> Iterator[Tiny]:
    yield MODELS[request.param]
    remove(MODELS[request.param].model())


@pytest.fixture
def wan() -> Iterator[Tiny]:
    yield MODELS["Wan"]
    remove(MODELS["Wan"].model())


def some_map(grid: Grid, density: float, seed: int = 0) -> BlockMap:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(2, grid.blocks(BLOCK), grid.blocks(BLOCK), generator=generator) < density
    return BlockMap(grid, BLOCK, torch.randint(1, 6, (2,), generator=generator).byte(), keep | required(grid, BLOCK))


def plan_of(tiny: Tiny, *planned: Planned) -> Plan:
    return Plan(fingerprint((name, *sizes(module)) for name, module in attention(tiny.model()).items()), planned)


def sparse(tiny: Tiny, density: float = 0.3) -> Plan:
    return plan_of(tiny, *(Planned(name, some_map(tiny.grid, density, seed)) for seed, name in enumerate(tiny.sites)))


class Masked(TorchFunctionMode):
    """Attention as a plan means it, over the whole map with a mask, in the order in which a model calls it."""

    def __init__(self, tiny: Tiny, plan: Plan) -> None:
        super().__init__()
        self.tokens, self.masks = tiny.grid.tokens, [token_mask(plan.maps[name]) for name in tiny.sites]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args)) | (kwargs or {})
        if given["key"].shape[2] == self.tokens:
            mask = given["attn_mask"]
            given["attn_mask"] = self.masks.pop(0) if mask is None else self.masks.pop(0) & mask
        return func(**given)


def token_mask(found: BlockMap) -> Tensor:
    mask = torch.zeros(found.heads, found.grid.tokens, found.grid.tokens, dtype=torch.bool)
    for head, queries, keys in found.rows():
        mask[head, queries[:, None], keys] = True
    return mask


def processors(model: nn.Module) -> list[Any]:
    return [module.get_processor() for module in attention(model).values()]


def test_a_plan_that_keeps_everything_is_dense_attention(tiny: Tiny) -> None:
    dense = tiny()
    applied = apply(tiny.model(), sparse(tiny, 1.0))
    assert (tiny() - dense).abs().max() < 1e-5 * dense.abs().max()
    for name in tiny.sites:
        assert f"{name}: density 1.00, torch, block by block" in str(applied)


def test_a_sparse_plan_computes_what_a_mask_would(tiny: Tiny) -> None:
    plan, dense = sparse(tiny), tiny()
    with Masked(tiny, plan):
        expected = tiny()
    apply(tiny.model(), plan)
    assert (tiny() - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (dense - expected).abs().max() > 1e-3 * expected.abs().max()


def test_what_is_removed_is_as_it_was(tiny: Tiny) -> None:
    before, dense = processors(tiny.model()), tiny()
    apply(tiny.model(), sparse(tiny))
    apply(tiny.model(), sparse(tiny))
    played = processors(tiny.model())
    assert played != before and all(isinstance(one, type(own)) for one, own in zip(played, before, strict=True))
    remove(tiny.model())
    assert processors(tiny.model()) == before and torch.equal(tiny(), dense)


def test_layers_that_the_plan_leaves_out_keep_their_processor(wan: Tiny) -> None:
    before = processors(wan.model())
    applied = apply(wan.model(), plan_of(wan, Planned("blocks.1.attn1", some_map(wan.grid, 0.3))))
    assert [after is own for after, own in zip(processors(wan.model()), before, strict=True)] == [True, True, False, True]
    assert "blocks.0.attn2: dense, the plan leaves it out" in str(applied)
    assert "blocks.1.attn1: density 0.40, not called yet" in str(applied)


class Tapped(TorchFunctionMode):
    """The last item of what enters each attention over a grid, in the order in which a model calls it."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens, self.samples = tokens, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip(("query", "key", "value"), args)) | (kwargs or {})
        if func is functional.scaled_dot_product_attention and given["key"].shape[2] == self.tokens:
            self.samples.append(Sample(*(given[name][-1:].clone() for name in ("query", "key", "value"))))
        return func(*args, **(kwargs or {}))


def test_a_recording_makes_a_plan(tiny: Tiny, tmp_path: Path) -> None:
    grid = tiny.grid
    with Tapped(grid.tokens) as tapped:
        dense = tiny()
    with record(tiny.model()) as recording:
        assert torch.equal(tiny(), dense)
    choose = ReorderTokens(grid=grid.axes, text_tokens=grid.text_tokens, text_first=grid.text_first, density=0.7, block=BLOCK)
    recording.plan(choose).save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert sorted(plan.sites) == sorted(tiny.sites)
    for name, sample in zip(tiny.sites, tapped.samples, strict=True):
        asked = Asked(grid, 2, sample.q.shape[3] ** -0.5, 0.7, BLOCK, samples=[sample])
        assert torch.equal(plan.maps[name].keep, Paro().choose(asked).map.keep)
        assert any(line.startswith(f"attention '{name}': density {plan.maps[name].density:.2f}, lost mass") for line in recording.said)
    apply(Pipe(tiny.model()), tmp_path / "plan.json")
    assert not torch.equal(tiny(), dense)


class Pipe:
    """What `apply` and `record` look at of a pipeline."""

    def __init__(self, transformer: Any, num_timesteps: int | None = None) -> None:
        self.transformer, self.num_timesteps = transformer, num_timesteps


WAN = ReorderTokens(grid=(3, 4, 8), density=0.5, block=BLOCK)


def guided(tiny: Tiny, steps: int = 10) -> list[Tensor]:
    """What a pipeline with guidance does: two calls a step."""
    return [tiny(timestep=1000 - 90 * step) for step in range(steps) for _ in ("with the prompt", "without")]


def test_parts_of_the_steps_have_maps_of_their_own(wan: Tiny) -> None:
    dense = guided(wan)
    with record(wan.model(), steps=(3, 7)) as recording:
        guided(wan)
    plan = recording.plan(WAN, steps=((0.2, 0.5), (0.5, 1.0)))
    assert [planned.steps for planned in plan.planned] == [(0.2, 0.5)] * 2 + [(0.5, 1.0)] * 2
    [early, _, late, _] = [planned.map for planned in plan.planned]
    assert not torch.equal(early.keep, late.keep)
    pipe = Pipe(wan.model(), 10)
    apply(pipe, plan)
    for _ in ("one run", "another"):
        same = [torch.equal(ours, theirs) for ours, theirs in zip(guided(wan), dense, strict=True)]
        assert same == [True] * 4 + [False] * 16
    apply(wan.model(), plan, steps=5)
    assert [torch.equal(ours, theirs) for ours, theirs in zip(guided(wan, 5), dense)] == [True] * 2 + [False] * 8
    with pytest.raises(UserError, match=r"say how many steps a run makes"):
        apply(wan.model(), plan)


def pipeline(tiny: Tiny) -> tuple[Any, Callable[[], Tensor]]:
    """The real pipeline, and four steps of it from prompts that are encoded already, to latents."""
    diffusers: Any = import_module("diffusers")
    sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1] * 4, "num_res_blocks": 1, "temperal_downsample": [False, True, True]}
    vae = diffusers.AutoencoderKLWan(**sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    made = diffusers.WanPipeline(tokenizer=None, text_encoder=None, transformer=tiny.model(), vae=vae, scheduler=scheduler)
    made.set_progress_bar_config(disable=True)
    prompts = {"prompt_embeds": torch.ones(1, TEXT, 16), "negative_prompt_embeds": torch.zeros(1, TEXT, 16)}
    sizes = {"height": 64, "width": 128, "num_frames": 9, "num_inference_steps": 4, "output_type": "latent"}

    def run() -> Tensor:
        return made(**prompts, **sizes, generator=torch.Generator().manual_seed(0)).frames

    return made, run


def test_a_pipeline_is_recorded_and_played(wan: Tiny) -> None:
    pipe, run = pipeline(wan)
    with Tapped(wan.grid.tokens) as tapped:
        dense = run()
    assert len(tapped.samples) == 4 * 2 * 2  # steps, prompts, layers
    with record(pipe, steps=(1, 2)) as recording:
        assert torch.equal(run(), dense)
    applied = apply(pipe, recording.plan(WAN, steps=((0.25, 0.5), (0.5, 1.0))))
    for _ in ("one run", "another"):
        with Tapped(wan.grid.tokens) as tapped:
            latents = run()
        assert len(tapped.samples) == 2 * 2, "the first step is dense"
        assert 1e-3 < (latents - dense).norm() / dense.norm() < 0.5
    assert "blocks.0.attn1: steps 0.25 to 0.5, density 0.50, torch, block by block" in str(applied)
    remove(pipe)
    assert torch.equal(run(), dense)


def test_the_same_plan_is_for_the_exported_model(wan: Tiny, tmp_path: Path) -> None:
    sparse(wan).save(tmp_path / "plan.json")
    apply(wan.model(), tmp_path / "plan.json")
    expected = wan()
    remove(wan.model())
    torch.manual_seed(1)
    given = wan.inputs(2, 10)
    graph = FxGraph.from_module(wan.model(), given)
    result = ReorderTokens(plan=str(tmp_path / "plan.json")).apply(graph, Context()).graph
    [y] = result.run(bind(graph.inputs, given)).outputs
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


def test_under_torch_compile(wan: Tiny) -> None:
    apply(wan.model(), sparse(wan))
    expected = wan()
    torch.compiler.reset()
    compiled = torch.compile(wan.model(), backend="eager")
    torch.manual_seed(1)
    with torch.no_grad():
        assert torch.equal(compiled(**wan.inputs(2, 10)).sample, expected)
    remove(compiled)
    assert not torch.equal(wan(), expected)


def test_the_page_is_true(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its code, on a small model of the same class and a fifth of the steps."""
    tiny = MODELS["CogVideoX"]
    first, second = re.findall(r"^```python\n(.*?)^```$", (DOCS / "how-to/diffusers.md").read_text(), re.MULTILINE | re.DOTALL)
    small = {
        "(13, 30, 45)": "(3, 4, 8)", "226": str(TEXT), "block=128": f"block={BLOCK}", "density=0.3": "density=0.7", "=50": "=10",
        "(10, 30)": "(2, 6)", "(5, 15, 30, 45)": "(1, 3, 6, 9)",
    }  # fmt: skip
    for said, replaced in small.items():
        assert said in first + second
        first, second = first.replace(said, replaced), second.replace(said, replaced)

    class Pipeline:
        transformer = tiny.model()

        def to(self, device: str) -> Pipeline:
            return self

        def __call__(self, prompt: str, num_inference_steps: int, **options: Any) -> Any:
            self.num_timesteps = num_inference_steps
            steps = [tiny(timestep=1000 - 10 * step) for step in range(num_inference_steps)]
            return SimpleNamespace(frames=torch.stack(steps))

    monkeypatch.setattr(import_module("diffusers").CogVideoXPipeline, "from_pretrained", lambda name, torch_dtype: Pipeline())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    try:
        exec(first, names)
        plan = Plan.load("cogvideox.json")
        assert [planned.steps for planned in plan.planned] == [(0.2, 0.5)] * 2 + [(0.5, 1.0)] * 2
        assert type(attention(tiny.model())[tiny.sites[0]].get_processor()).__name__ == "PlannedCogVideoXAttnProcessor2_0"
        exec(second, names)
        assert names["plan"].parts == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
        assert "dB on 2 held-out inputs (PSNR 30.0 dB asked for)" in "\n".join(names["recording"].said)
    finally:
        remove(tiny.model())


def test_flex_attention_is_compiled_within_a_processor(wan: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would compute every block if it were not."""

    def flex(player: Player, q: Tensor, k: Tensor, v: Tensor, scale: float, *_: Any) -> Tensor:
        return player._flex(q, k, v, scale, None)

    plan = sparse(wan)
    with Masked(wan, plan):
        expected = wan()
    torch.compiler.reset()
    monkeypatch.setattr(Player, "__call__", flex)
    apply(wan.model(), plan)
    assert (wan() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_part_that_was_not_recorded(wan: Tiny) -> None:
    with record(wan.model(), steps=(0,)) as recording:
        guided(wan, 4)
    with pytest.raises(RecipeError, match=r"no step from 0\.5 to 1 of 4 was recorded"):
        recording.plan(WAN, steps=((0.0, 0.5), (0.5, 1.0)))


@pytest.mark.parametrize(
    ("steps", "said"), [([(0.5, 0.2)], "0.5 to 0.2 is no part of the schedule"), ([(0.4, 1), (0, 0.5)], "two parts have 0.4 in them")]
)
def test_parts_that_cannot_be(wan: Tiny, steps: Any, said: str) -> None:
    with record(wan.model()) as recording:
        wan()
    with pytest.raises(RecipeError, match=f"steps: {said}"):
        recording.plan(WAN, steps)


def test_samples_may_lie_in_files(wan: Tiny, tmp_path: Path) -> None:
    plans = []
    for folder in (None, tmp_path / "samples"):
        with record(wan.model(), folder=folder) as recording:
            wan()
        plans.append(recording.plan(WAN))
    assert len(list((tmp_path / "samples").glob("*.pt"))) == 4
    assert all(torch.equal(one.map.keep, other.map.keep) for one, other in zip(plans[0].planned, plans[1].planned, strict=True))


def refused(tiny: Tiny, choose: ReorderTokens) -> str:
    with record(tiny.model()) as recording:
        tiny()
    with pytest.raises(RecipeError) as caught:
        recording.plan(choose)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_fits_nothing_is_refused(wan: Tiny) -> None:
    assert "96 tokens, a grid of 3×4×7 has 84" in refused(wan, ReorderTokens(grid=(3, 4, 7), block=BLOCK))
    assert "density 0.01: text and the diagonal alone are" in refused(wan, ReorderTokens(grid=(3, 4, 8), density=0.01, block=BLOCK))
    assert "every head's output error is above max_error 0" in refused(wan, ReorderTokens(grid=(3, 4, 8), block=BLOCK, max_error=0.0))
    assert "precision: a plan holds maps alone" in refused(wan, ReorderTokens(grid=(3, 4, 8), block=BLOCK, precision="int8"))
    floors: list[dict[str, Any]] = [{"min_psnr": 30.0}, {"min_ssim": 0.9}]
    for floor in floors:
        said = refused(wan, ReorderTokens(grid=(3, 4, 8), block=BLOCK, **floor))
        assert said == f"{next(iter(floor))}: needs runs of the pipeline that were not recorded; give them as held_out="
    timed = ReorderTokens(grid=(3, 4, 8), block=BLOCK, timestep="t", schedule=(1000, 0))
    assert refused(wan, timed) == "timestep: a recording knows its steps; leave it out, and give steps= to plan"
    with record(wan.model()) as recording:
        pass
    with pytest.raises(RecipeError, match="none was called"):
        recording.plan(WAN)


def test_cross_attention_and_text_stay_dense_and_say_so() -> None:
    for name, said in (
        ("Wan", "blocks.0.attn2': dense, cross attention: 96 queries, 5 keys"),
        ("HunyuanVideo", "refiner_blocks.0.attn': dense, its mask"),
    ):
        tiny = MODELS[name]
        with record(tiny.model()) as recording:
            tiny()
        grid = tiny.grid
        recording.plan(ReorderTokens(grid=grid.axes, text_tokens=grid.text_tokens, text_first=grid.text_first, density=0.6, block=BLOCK))
        assert any(said in line for line in recording.said)


def test_nan_is_refused(wan: Tiny) -> None:
    weight = wan.model().get_parameter("blocks.1.attn1.to_v.bias")
    before = weight.data.clone()
    try:
        weight.data[0] = float("nan")
        with record(wan.model()) as recording:
            wan()
    finally:
        weight.data.copy_(before)
    assert recording.plan(WAN).sites == ["blocks.0.attn1"]
    assert "attention 'blocks.1.attn1': dense, its q, k or v held NaN or infinity on a calibration input" in recording.said


def test_a_plan_for_something_else(wan: Tiny, tmp_path: Path) -> None:
    before = processors(wan.model())
    heads = BlockMap(wan.grid, BLOCK, None, some_map(wan.grid, 0.5).keep.repeat(2, 1, 1))
    cases = [
        (sparse(MODELS["Flux"]), "made for another model, which had an attention 'transformer_blocks.0.attn'"),
        (plan_of(wan, Planned("blocks.0.attn1", heads)), "attention 'blocks.0.attn1' has 2 heads, the plan 4"),
        (Plan("other", sparse(wan).planned), "its attention has other names, heads or sizes"),
        (tmp_path / "none.json", "No such file"),
    ]
    for plan, said in cases:
        with pytest.raises(RecipeError, match=said) as caught:
            apply(wan.model(), plan)
        assert "\n" not in str(caught.value)
    assert processors(wan.model()) == before


def test_another_number_of_tokens(wan: Tiny) -> None:
    apply(wan.model(), plan_of(wan, Planned("blocks.0.attn1", some_map(Grid(3, 4, 9), 0.5))))
    with pytest.raises(InputError, match=r"'blocks.0.attn1': the plan is for 108 tokens \(3×4×9\), this call has 96; another size"):
        wan()


def test_models_that_are_not_diffusers() -> None:
    with pytest.raises(UserError, match="Linear has no attention with a processor"):
        apply(nn.Linear(2, 2), Plan("m", []))
    with pytest.raises(UserError, match="int is neither a transformer of diffusers nor a pipeline"):
        apply(3, Plan("m", []))


def test_a_processor_that_computes_otherwise(wan: Tiny) -> None:
    class Eager:
        def __call__(self, attn: Any, hidden_states: Tensor, *_: Any) -> Tensor:
            return hidden_states

    module = attention(wan.model())["blocks.0.attn1"]
    own = module.get_processor()
    module.set_processor(Eager())
    try:
        apply(wan.model(), sparse(wan))
        with pytest.raises(UserError, match="Eager does not call scaled_dot_product_attention"):
            wan()
    finally:
        remove(wan.model())
        module.set_processor(own)


def test_processors_with_weights_are_refused(wan: Tiny) -> None:
    class Adapter(nn.Module):
        pass

    module = attention(wan.model())["blocks.0.attn1"]
    own = module.get_processor()
    module.set_processor(Adapter())
    try:
        with pytest.raises(UserError, match=r"'blocks\.0\.attn1' has a processor with weights, Adapter"):
            apply(wan.model(), sparse(wan))
    finally:
        module.set_processor(own)
