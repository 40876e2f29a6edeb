"""Compute only some blocks of attention, over tokens that each head may have in an order of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sparsecc import attention, registry
from sparsecc.attention.base import BLOCK, Asked, BlockMap, Choice, Grid, Head, Pattern, Sample, least_density
from sparsecc.attention.rounding import PRECISIONS, Precision
from sparsecc.attention.steps import WHOLE, Part
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import require_valid, select
from sparsecc.graph.sites import Attention
from sparsecc.passes._floor import Floor, split
from sparsecc.passes._gains import UNIFORM, require_allocation
from sparsecc.passes._planned import fingerprint_of, fitting, maps_in
from sparsecc.passes._reordering import Reordering, uncounted, unfit, untouchable
from sparsecc.passes._shares import Chosen, OfGraph, Sharing, Source
from sparsecc.passes._steps import Timed
from sparsecc.passes.base import Example, Match, Pass

if TYPE_CHECKING:
    from sparsecc.attention.plan import Plan, Planned

DENSITY = 0.5  # where neither it nor a floor is given
TAPPED_BYTES = 1 << 30  # how much q, k and v is held at once: a layer of a video model has 200 MB of each


@dataclass(frozen=True)
class ReorderTokens(Pass[Attention, Reordering]):
    """Order the tokens of each attention head such that its map is blocky, and compute only the heaviest blocks; or compute a fixed
    pattern of blocks over the order that the model has, or blocks that are chosen in each call.

    softmax(scale · q kᵀ) v  ->  block_attention(q, k, v, orders, keep) | dynamic_block_attention(q, k, v, required, rule)

    `paro` is for image and video transformers: the tokens lie on a grid of frames × height × width. Inputs and outputs of the layer stay
    in the model's own order. It needs calibration inputs or a plan; one or two samples suffice. `sliding_window`, `tri_shape`, `strided`
    and `star` need neither grid nor calibration, reorder nothing, and are for causal attention, too. So do `block_topk`, `loki` and
    `skip_softmax`, which choose blocks in each call from its q and k; the last two need calibration. They are for torch models, and
    stand in no plan.

    Left dense, with the reason in the report: cross attention, causal and masked attention where the pattern reorders, masked attention
    where it chooses blocks in each call, another number of tokens than the grid has, a density below what text and the diagonal take, and
    layers in which every head is above `max_error`. Where no density reaches a floor, all layers are left dense.

    grid: `[frames, height, width]` in tokens, `[1, height, width]` for images. Needed unless `plan` is given or the pattern asks for none.
    text_tokens: how many tokens of text stand in the same sequence. They are not reordered, and blocks that hold text are all kept: every
    token sees them, and they see every token, as global tokens do.
    text_first: whether the text stands before the grid or after it.
    density: the share of the blocks that are kept, text and diagonal included, in (0, 1]. Of causal attention, the share of the blocks up
    to the diagonal. 0.5 when neither it nor a floor is given. Not used where the pattern's own options say what is kept. `skip_softmax`
    keeps it on the calibration inputs.
    min_psnr: instead of a density: the least PSNR, in dB, of the model's outputs against those with dense attention; the peak is the range
    of the latter's values. Every second calibration input is held out. Maps are chosen on the others, and the pass takes the
    lowest density, of 18 from 0.05 to 0.9, at which the whole model reaches the floor on each held-out input.
    min_ssim: likewise, the least SSIM, over the last two axes of outputs that are images or videos. Both floors may be given.
    allocation: how the density is divided over heads and layers. `uniform`: all have the same. `sensitivity`: heads that lose much keep
    more; a head's loss is its error at several densities, measured on the calibration inputs, times how much the model's outputs move with
    its layer. All heads together keep the density.
    max_error: a head whose output is off by more on the calibration inputs (relative) keeps every block. Any error is allowed when not
    given.
    pattern: how orders and blocks are chosen; a member of `attention`, perhaps with options behind a colon: `sliding_window:512`,
    `paro:axes+curves`.
    block: how many tokens make a block.
    plan: a file of block maps that were chosen before, used instead of calibration. Its grid, block and density hold.
    plan_step: where maps are not the same in all denoising steps, those of a plan or those of `steps`: the step whose maps are taken, as a
    fraction of the schedule in [0, 1).
    timestep: the model's input that holds the timestep. By its values calibration inputs belong to parts of the denoising steps, and each
    part has maps of its own. `allocation: sensitivity` divides the density over heads, layers and parts, a floor holds in each part.
    schedule: with `timestep`: what it holds at evenly spaced points of a run, from its begin to its end: `[1000, 0]`; where steps are
    not even, what it holds at each step, and the end.
    steps: with `timestep`: how many equal parts, or each part as fractions of the schedule: `[[0.2, 0.5], [0.5, 1]]` leaves the first fifth
    dense.
    precision: what q, k and v are rounded to: `float32` leaves them as they are, `bfloat16` rounds all three, `int8` rounds q and k with
    one scale for each block of tokens, and v to bfloat16. Compiled for a CPU, float32 is timed beside it and stays where it is faster, or
    where the CPU does not multiply such numbers. For a GPU the model's own type is timed beside int8; it is what stands for bfloat16.
    `max_error` is judged without it, floors with it.
    """

    examples = (
        Example({"grid": [1, 3, 3], "text_tokens": 1, "density": 0.8, "block": 3}, on=("transformer",)),
        Example({"pattern": "block_topk", "text_tokens": 1, "density": 0.8, "block": 3}, on=("transformer",), torch_only=True),
    )

    targets: Targets = ALL
    ignore: Targets = ()
    grid: tuple[int, int, int] | None = None
    text_tokens: int = 0
    text_first: bool = True
    density: float | None = None
    min_psnr: float | None = None
    min_ssim: float | None = None
    allocation: str = UNIFORM
    max_error: float | None = None
    pattern: str = "paro"
    block: int = BLOCK
    plan: str | None = None
    plan_step: float | None = None
    timestep: str | None = None
    schedule: tuple[float, ...] = ()
    steps: int | tuple[tuple[float, float], ...] = 1
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        registry.require("pattern", "attention", self.pattern.partition(":")[0])
        if self.grid is None and self.plan is None and self._pattern.needs_grid:
            raise RecipeError("grid: missing; give frames, height and width of the tokens, as [13, 30, 45] ([1, height, width] for images)")
        if self.grid is not None and min(self.grid) < 1:
            raise RecipeError(f"grid: {list(self.grid)} has a side without tokens")
        if self.text_tokens < 0:
            raise RecipeError(f"text_tokens: {self.text_tokens} is negative")
        if not 0 < self._density <= 1:
            raise RecipeError(f"density: {self.density} is not in (0, 1]; it is the share of blocks kept")
        require_allocation(self.allocation)
        self._check_floor()
        if self.max_error is not None and self.max_error < 0:
            raise RecipeError(f"max_error: {self.max_error} is negative")
        if self.plan_step is not None and not 0 <= self.plan_step < 1:
            raise RecipeError(f"plan_step: {self.plan_step} is not in [0, 1); it is a fraction of the schedule")
        if self.block < 1:
            raise RecipeError(f"block: {self.block} tokens are no block")
        if self.precision not in PRECISIONS:
            raise RecipeError(f"precision: {self.precision!r} is none of {', '.join(PRECISIONS)}")
        if self._timed and self.plan is not None:
            raise RecipeError("plan: its maps are chosen already; leave timestep out")
        self._check_dynamic()

    def _check_floor(self) -> None:
        floor = self._floor
        if floor and self.density is not None:
            raise RecipeError(f"density: {floor.fields} decides it; leave one of them out")
        if self.plan is not None and (floor or self.allocation != UNIFORM):
            raise RecipeError(f"plan: its maps are chosen already; leave {floor.fields or 'allocation'} out")

    def _check_dynamic(self) -> None:
        if self.plan is not None or not self._pattern.dynamic:
            return
        asked = {"precision": self.precision != "float32", "allocation": self.allocation != UNIFORM, self._floor.fields: self._floor}
        asked["timestep"] = bool(self._timed)
        if field := next((field for field, given in asked.items() if given), None):
            raise RecipeError(f"{field}: not for {self.pattern}, which chooses blocks in each call; leave it out")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[Attention, Reordering]]:
        sites = select(graph, Attention, self.targets, self.ignore)
        if not sites:
            return
        if self.plan is not None:
            yield from self._planned(graph, sites, self.plan)
            return
        refused = {site.name: reason for site in sites if (reason := self._refuse(site) or self._refuse_host(graph, context))}
        taken = [site for site in sites if site.name not in refused]
        found = self._calibrated(graph, taken, context) if context.calibration else self._unmeasured(taken)
        for site in sites:
            yield Match(site, refused[site.name]) if site.name in refused else next(found)

    def rewrite(self, graph: Graph, site: Attention, reordering: Reordering) -> None:
        from sparsecc.ops.block_attention.torch import BlockAttention
        from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention

        found = reordering.map
        if isinstance(found, BlockMap):
            graph.replace(site, BlockAttention(found, site.scale, site.kv_heads != site.heads, reordering.precision))
        else:
            graph.replace(site, DynamicBlockAttention(found, site.scale))

    def head_rows(self, reordering: Reordering) -> Sequence[Head]:
        return reordering.heads()

    def chosen(self, source: Source, sites: Sequence[Attention], parts: Sequence[Part], context: Context = Context()) -> dict[Part, Chosen]:
        """What becomes of each attention in each part of the steps, for who has no graph. A floor is held by the outputs of the whole model
        with the maps of all parts, at one density for all. Raises RecipeError for a pattern that chooses blocks in each call, so that there
        is no map."""
        self._require_plannable()
        refused: Chosen = {site.name: reason for site in sites if (reason := self._refuse(site))}
        found = self._chosen(source, [site for site in sites if site.name not in refused], parts, parts, context)
        return {part: {site.name: (refused | chosen)[site.name] for site in sites} for part, chosen in found.items()}

    def calibrate(self, graph: Graph, context: Context = Context()) -> Plan:
        """The maps of all parts of the steps, to be saved and used for this model again. Attention that stays dense has none. Raises what
        `find` raises, and RecipeError for a pattern that chooses blocks in each call."""
        from sparsecc.attention.plan import Plan

        self._require_plannable()
        sites = [site for site in select(graph, Attention, self.targets, self.ignore) if self._refuse(site) is None]
        if context.calibration:
            found = self._in_parts(graph, sites, context, self._timed.parts)
        else:
            found = {WHOLE: {match.site.name: match.action for match in self._unmeasured(sites)}}
        return Plan(fingerprint_of(graph), planned_of(found))

    def _require_plannable(self) -> None:
        if self.plan is not None:
            raise RecipeError("plan: its maps are chosen already; leave it out")
        if self._pattern.dynamic:
            raise RecipeError(f"pattern: {self.pattern} chooses blocks in each call; plans hold maps that are the same in all")

    @cached_property
    def _timed(self) -> Timed:
        return Timed(self.timestep, self.schedule, self.steps)

    @property
    def _density(self) -> float:
        """Where no floor decides it."""
        return DENSITY if self.density is None else self.density

    @property
    def _floor(self) -> Floor:
        return Floor(self.min_psnr, self.min_ssim)

    @cached_property
    def _pattern(self) -> Pattern:
        return attention.create(self.pattern)

    def _grid(self, tokens: int) -> Grid:
        """Where that many tokens lie. Without a grid they lie on a line."""
        if self.grid is None:
            return Grid.line(tokens, self.text_tokens, self.text_first)
        return Grid(*self.grid, self.text_tokens, self.text_first)

    def _refuse(self, site: Attention) -> Refused | None:
        if self._pattern.dynamic and site.has_mask and site.block_map is None:
            return Refused(f"{self.pattern} does not look at masks; only attention without a mask is")
        return untouchable(site, self._pattern.reorders) or (self._refuse_length(site, site.tokens) if site.tokens is not None else None)

    def _refuse_host(self, graph: Graph, context: Context) -> Refused | None:
        if self._pattern.dynamic and not graph.chooses_blocks:
            return Refused(f"{self.pattern} chooses blocks in each call; for {graph.host} there is no operator that does")
        return uncounted(self.pattern) if self._pattern.stateful and not context.stateful else None

    def _refuse_length(self, site: Attention, tokens: int) -> Refused | None:
        if self.grid is None and tokens <= self.text_tokens:
            return Refused(f"{tokens} tokens, of which {self.text_tokens} should be text")
        grid = self._grid(tokens)
        if tokens != grid.tokens:
            return Refused(f"{tokens} tokens, a grid of {grid} has {grid.tokens}")
        least = least_density(grid, self.block, site.causal)
        if self._pattern.exact_density and not self._floor and self._density < least:
            return Refused(f"density {self._density:g}: text and the diagonal alone are {least:.2g} of the blocks")
        return None

    def _planned(self, graph: Graph, sites: Sequence[Attention], path: str) -> Iterator[Match[Attention, Reordering]]:
        try:
            maps = maps_in(path, self.plan_step, graph)
            for site in sites:
                found = maps.get(site.name)
                grid = None if self.grid is None or found is None else self._grid(found.grid.tokens)
                fit = fitting(site, found, grid, path)
                yield Match(site, fit if isinstance(fit, Refused) else Reordering(fit, precision=self.precision))
        except RecipeError as error:
            raise RecipeError(f"plan: {error}") from None

    def _unmeasured(self, sites: Sequence[Attention]) -> Iterator[Match[Attention, Reordering]]:
        """Without samples."""
        if sites and self._pattern.needs_samples:
            missing = f"pattern: {self.pattern} has to be calibrated" if self._pattern.dynamic else "plan: missing"
            raise RecipeError(f"{missing}, so that calibration inputs are needed; pass calibration= (--calib)")
        needing = {"max_error": self.max_error is not None, self._floor.fields: self._floor, "allocation": self.allocation != UNIFORM}
        needing["timestep"] = bool(self._timed)
        if sites and (field := next((field for field, given in needing.items() if given), None)):
            raise RecipeError(f"{field}: needs calibration inputs to be judged by; pass calibration= (--calib)")
        for site in sites:
            open_length = Refused("the model leaves its number of tokens open; fix the input's sizes, or give calibration inputs")
            yield Match(site, open_length if site.tokens is None else self._choose(site, site.tokens))

    def _calibrated(self, graph: Graph, sites: Sequence[Attention], context: Context) -> Iterator[Match[Attention, Reordering]]:
        part = self._timed.part(self.plan_step)
        if isinstance(part, Refused):
            yield from (Match(site, part) for site in sites)
            return
        found = self._in_parts(graph, sites, context, [part])[part]
        yield from (Match(site, found[site.name]) for site in sites)

    def _in_parts(self, graph: Graph, sites: Sequence[Attention], context: Context, wanted: Sequence[Part]) -> dict[Part, Chosen]:
        """Of each part that is wanted."""
        inputs = self._timed.inputs(graph, context.calibration or ())
        if not self._floor:
            return self._chosen(OfGraph(graph, inputs, self._tapped), sites, self._timed.parts, wanted, context)
        found: dict[Part, Chosen] = {}
        for part in wanted:
            choosing, held_out = split(self._floor, inputs[part])
            source = OfGraph(graph, {part: choosing}, self._tapped, held_out, self.precision)
            found |= self._chosen(source, sites, [part], [part], context)
        return found

    def _chosen(
        self, source: Source, sites: Sequence[Attention], parts: Sequence[Part], wanted: Sequence[Part], context: Context
    ) -> dict[Part, Chosen]:
        """Of the parts that are wanted."""
        sharing = Sharing(self._pattern, self.allocation, self._entered, self._decided, context)
        if self._floor:
            return sharing.above(self._floor, self.max_error, source, sites, parts)
        if self.allocation != UNIFORM:
            return sharing.at(self._density, source, sites, parts, wanted)
        return {part: {site.name: self._judged(site, samples) for site, samples in source.entering(part, sites)} for part in wanted}

    def _tapped(self, graph: Graph, sites: Sequence[Attention], inputs: Sequence[Any]) -> Iterator[tuple[Attention, list[Sample]]]:
        """What enters each site, a few sites at once."""
        held = sum(12 * self._held(site) * site.heads * site.head_dim for site in sites) // max(1, len(sites)) * len(inputs)
        count = max(1, TAPPED_BYTES // max(1, held))
        for start in range(0, len(sites), count):
            group = sites[start : start + count]
            runs = [graph.run(one, [site.name for site in group]).taps for one in inputs]
            for site in group:
                yield site, [Sample(*run[site.name]) for run in runs]

    def _held(self, site: Attention) -> int:
        """Tokens of a site, as far as they are known before it is run."""
        return self._grid(0).tokens if self.grid is not None else site.tokens or 0

    def _judged(self, site: Attention, samples: Sequence[Sample]) -> Reordering | Refused:
        asked = self._entered(site, samples)
        return asked if isinstance(asked, Refused) else self._decided(site, self._pattern.choose(asked))

    def _entered(self, site: Attention, samples: Sequence[Sample]) -> Asked | Refused:
        """What the pattern is asked for at a site that these samples enter."""
        tokens = samples[0].q.shape[2]
        reason = unfit(samples) or self._refuse_length(site, tokens) or self._refuse_mask(site)
        return reason or self._asked(site, tokens, samples)

    def _choose(self, site: Attention, tokens: int) -> Reordering | Refused:
        """Without samples."""
        return self._refuse_mask(site) or self._decided(site, self._pattern.choose(self._asked(site, tokens, [])))

    def _refuse_mask(self, site: Attention) -> Refused | None:
        """Where costs have to be known, and a mask has a part in them."""
        if not site.has_mask or (self.max_error is None and self.allocation == UNIFORM):
            return None
        what = "max_error" if self.max_error is not None else "its loss"
        return Refused(f"its mask is not among the samples, so that {what} cannot be judged")

    def _asked(self, site: Attention, tokens: int, samples: Sequence[Sample]) -> Asked:
        grid, samples = self._grid(tokens), [] if site.has_mask else samples
        return Asked(grid, site.heads, site.scale, self._density, self.block, self.max_error, site.causal, samples)

    def _decided(self, site: Attention, choice: Choice, checked: str = "") -> Reordering | Refused:
        everything = len(choice.map.dense_heads) == site.heads
        least = None if choice.error is None else float(choice.error.min())
        if everything and self.max_error is not None and least is not None and not least <= self.max_error:
            return Refused(f"every head's output error is above max_error {self.max_error:g}, the least is {least:.2g}")
        if everything and self.allocation != UNIFORM:
            return Refused(f"{self.allocation} keeps all of its blocks: other layers lose less by leaving out theirs")
        if everything and not self._pattern.exact_density:
            return Refused(f"{self.pattern} keeps every block of {choice.map.grid.tokens} tokens")
        return Reordering(choice.map, choice, self.precision, checked)


def plan_of(graph: Graph) -> Plan:
    """The block maps that a graph holds, to be saved and used for this model again. Attention whose blocks are chosen in each call has
    none."""
    from sparsecc.attention.plan import Plan

    return Plan.of(
        fingerprint_of(graph), {site.name: site.block_map for site in graph.sites(Attention) if isinstance(site.block_map, BlockMap)}
    )


def planned_of(found: Mapping[Part, Chosen]) -> list[Planned]:
    """The maps among what was decided. Attention that stays dense has none."""
    from sparsecc.attention.plan import Planned

    maps = [
        (name, decided.map, part) for part, chosen in found.items() for name, decided in chosen.items() if isinstance(decided, Reordering)
    ]
    return [Planned(name, one, part) for name, one, part in maps if isinstance(one, BlockMap)]
