"""Compute only some blocks of attention, over tokens that each head may have in an order of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sparsecc import attention, registry
from sparsecc.attention.base import BLOCK, Asked, BlockMap, Choice, Grid, Pattern, Sample, least_density
from sparsecc.calibration.context import Context
from sparsecc.errors import RecipeError, Refused
from sparsecc.graph.base import ALL, Graph, Targets
from sparsecc.graph.select import require_valid, select
from sparsecc.graph.sites import Attention
from sparsecc.passes.base import Example, Match, Pass

if TYPE_CHECKING:
    from sparsecc.attention.dynamic import DynamicMap
    from sparsecc.attention.plan import Plan

TAPPED_BYTES = 1 << 30  # how much q, k and v is held at once: a layer of a video model has 200 MB of each


@dataclass(frozen=True)
class Reordering:
    """What ReorderTokens does at a site. choice: None for a map out of a plan."""

    map: BlockMap | DynamicMap
    choice: Choice[Any] | None = None

    def __str__(self) -> str:
        static = isinstance(self.map, BlockMap)
        density = f"density {self.map.density:.2f}" + ("" if static else ", blocks chosen in each call")
        return ", ".join([density, *self._costs(), *(_orders_by_head(self.map) if isinstance(self.map, BlockMap) else [])])

    def _costs(self) -> Iterator[str]:
        dense = self.map.dense_heads
        sparse = [head for head in range(self.map.heads) if head not in dense]
        lost, error = (None, None) if self.choice is None else (self.choice.lost, self.choice.error)
        if lost is not None and error is not None and sparse:
            yield f"lost mass {float(lost[sparse].mean()):.2g}"
            yield f"output error {float(error[sparse].mean()):.2g} (largest {float(error[sparse].max()):.2g})"
        if dense:
            yield f"{len(dense)} of {self.map.heads} heads dense ({', '.join(map(str, dense))})"


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
    layers in which every head is above `max_error`.

    grid: `[frames, height, width]` in tokens, `[1, height, width]` for images. Needed unless `plan` is given or the pattern asks for none.
    text_tokens: how many tokens of text stand in the same sequence. They are not reordered, and blocks that hold text are all kept: every
    token sees them, and they see every token, as global tokens do.
    text_first: whether the text stands before the grid or after it.
    density: the share of the blocks that each head keeps, text and diagonal included, in (0, 1]. Of causal attention, the share of the
    blocks up to the diagonal. Not used where the pattern's own options say what is kept. `skip_softmax` keeps it on the calibration
    inputs.
    max_error: a head whose output is off by more on the calibration inputs (relative) keeps every block. Any error is allowed when not
    given.
    pattern: how orders and blocks are chosen; a member of `attention`, perhaps with options behind a colon: `sliding_window:512`,
    `paro:axes+curves`.
    block: how many tokens make a block.
    plan: a file of block maps that were chosen before, used instead of calibration. Its grid, block and density hold.
    plan_step: for a plan whose maps are not the same in all denoising steps: the step whose maps are taken, as a fraction of the schedule
    in [0, 1).
    """

    examples = (Example({"grid": [1, 3, 3], "text_tokens": 1, "density": 0.8, "block": 3}, on=("transformer",)),)

    targets: Targets = ALL
    ignore: Targets = ()
    grid: tuple[int, int, int] | None = None
    text_tokens: int = 0
    text_first: bool = True
    density: float = 0.5
    max_error: float | None = None
    pattern: str = "paro"
    block: int = BLOCK
    plan: str | None = None
    plan_step: float | None = None

    def __post_init__(self) -> None:
        require_valid(targets=self.targets, ignore=self.ignore)
        registry.require("pattern", "attention", self.pattern.partition(":")[0])
        if self.grid is None and self.plan is None and self._pattern.needs_grid:
            raise RecipeError("grid: missing; give frames, height and width of the tokens, as [13, 30, 45] ([1, height, width] for images)")
        if self.grid is not None and min(self.grid) < 1:
            raise RecipeError(f"grid: {list(self.grid)} has a side without tokens")
        if self.text_tokens < 0:
            raise RecipeError(f"text_tokens: {self.text_tokens} is negative")
        if not 0 < self.density <= 1:
            raise RecipeError(f"density: {self.density} is not in (0, 1]; it is the share of blocks kept")
        if self.max_error is not None and self.max_error < 0:
            raise RecipeError(f"max_error: {self.max_error} is negative")
        if self.plan_step is not None and not 0 <= self.plan_step < 1:
            raise RecipeError(f"plan_step: {self.plan_step} is not in [0, 1); it is a fraction of the schedule")
        if self.block < 1:
            raise RecipeError(f"block: {self.block} tokens are no block")

    def find(self, graph: Graph, context: Context) -> Iterator[Match[Attention, Reordering]]:
        sites = select(graph, Attention, self.targets, self.ignore)
        if not sites:
            return
        if self.plan is not None:
            yield from self._planned(graph, sites, self.plan)
            return
        refused = {site.name: reason for site in sites if (reason := self._refuse(site) or self._refuse_host(graph))}
        taken = [site for site in sites if site.name not in refused]
        found = self._calibrated(graph, taken, context) if context.calibration else self._unmeasured(taken)
        for site in sites:
            yield Match(site, refused[site.name]) if site.name in refused else next(found)

    def rewrite(self, graph: Graph, site: Attention, reordering: Reordering) -> None:
        from sparsecc.ops.block_attention.torch import BlockAttention
        from sparsecc.ops.dynamic_block_attention.torch import DynamicBlockAttention

        found = reordering.map
        if isinstance(found, BlockMap):
            graph.replace(site, BlockAttention(found, site.scale, site.kv_heads != site.heads))
        else:
            graph.replace(site, DynamicBlockAttention(found, site.scale))

    def judged(self, site: Attention, samples: Sequence[Sample]) -> Reordering | Refused:
        """What becomes of an attention that these samples enter, for who has no graph. Raises RecipeError for a pattern that needs some and
        has none, or chooses blocks in each call, so that there is no map."""
        if self._pattern.dynamic:
            raise RecipeError(f"pattern: {self.pattern} chooses blocks in each call; plans hold maps that are the same in all")
        reason = self._refuse(site)
        if reason is not None:
            return reason
        if samples:
            return self._judged(site, samples)
        [match] = self._unmeasured([site])
        return match.action

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

    def _refuse_host(self, graph: Graph) -> Refused | None:
        if graph.chooses_blocks or not self._pattern.dynamic:
            return None
        return Refused(f"{self.pattern} chooses blocks in each call; for {graph.host} there is no operator that does")

    def _refuse_length(self, site: Attention, tokens: int) -> Refused | None:
        if self.grid is None and tokens <= self.text_tokens:
            return Refused(f"{tokens} tokens, of which {self.text_tokens} should be text")
        grid = self._grid(tokens)
        if tokens != grid.tokens:
            return Refused(f"{tokens} tokens, a grid of {grid} has {grid.tokens}")
        least = least_density(grid, self.block, site.causal)
        if self._pattern.exact_density and self.density < least:
            return Refused(f"density {self.density:g}: text and the diagonal alone are {least:.2g} of the blocks")
        return None

    def _planned(self, graph: Graph, sites: Sequence[Attention], path: str) -> Iterator[Match[Attention, Reordering]]:
        from sparsecc.attention.plan import Plan

        try:
            plan = Plan.load(path)
            _require_made_for(plan, graph, path)
            maps = self._maps(plan, path)
            for site in sites:
                yield Match(site, self._from_plan(site, maps.get(site.name), path))
        except RecipeError as error:
            raise RecipeError(f"plan: {error}") from None

    def _maps(self, plan: Plan, path: str) -> dict[str, BlockMap]:
        """By site. A compiled model has one map for each."""
        if self.plan_step is not None:
            return plan.at(self.plan_step)
        try:
            return plan.maps
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}; plan_step: 0.5 takes those in the middle of the steps") from None

    def _from_plan(self, site: Attention, found: BlockMap | None, path: str) -> Reordering | Refused:
        reason = untouchable(site, found is None or found.orders is not None)
        if reason is not None:
            return reason
        if found is None:
            return Refused("the plan leaves it dense")
        if found.heads != site.heads:
            raise RecipeError(f"{path}: attention '{site.name}' has {site.heads} heads, the plan {found.heads}")
        if site.tokens not in (None, found.grid.tokens):
            raise RecipeError(f"{path}: attention '{site.name}' has {site.tokens} tokens, the plan is for {found.grid.tokens}")
        if found.causal != site.causal:
            one, other = ("is", "is not") if site.causal else ("is not", "is")
            raise RecipeError(f"{path}: attention '{site.name}' {one} causal, the plan's {other}")
        if self.grid is not None and found.grid != (grid := self._grid(found.grid.tokens)):
            raise RecipeError(f"{path}: the plan is for a grid of {found.grid}, the recipe says {grid}")
        return Reordering(found)

    def _unmeasured(self, sites: Sequence[Attention]) -> Iterator[Match[Attention, Reordering]]:
        """Without samples."""
        if sites and self._pattern.needs_samples:
            missing = f"pattern: {self.pattern} has to be calibrated" if self._pattern.dynamic else "plan: missing"
            raise RecipeError(f"{missing}, so that calibration inputs are needed; pass calibration= (--calib)")
        if sites and self.max_error is not None:
            raise RecipeError("max_error: needs calibration inputs to be judged by; pass calibration= (--calib)")
        for site in sites:
            open_length = Refused("the model leaves its number of tokens open; fix the input's sizes, or give calibration inputs")
            yield Match(site, open_length if site.tokens is None else self._choose(site, site.tokens, []))

    def _calibrated(self, graph: Graph, sites: Sequence[Attention], context: Context) -> Iterator[Match[Attention, Reordering]]:
        assert context.calibration
        held = sum(12 * self._held(site) * site.heads * site.head_dim for site in sites) // max(1, len(sites)) * len(context.calibration)
        count = max(1, TAPPED_BYTES // max(1, held))
        for start in range(0, len(sites), count):
            group = sites[start : start + count]
            runs = [graph.run(inputs, [site.name for site in group]).taps for inputs in context.calibration]
            for site in group:
                yield Match(site, self._judged(site, [Sample(*run[site.name]) for run in runs]))

    def _held(self, site: Attention) -> int:
        """Tokens of a site, as far as they are known before it is run."""
        return self._grid(0).tokens if self.grid is not None else site.tokens or 0

    def _judged(self, site: Attention, samples: Sequence[Sample]) -> Reordering | Refused:
        tokens = samples[0].q.shape[2]
        return _unfit(samples) or self._refuse_length(site, tokens) or self._choose(site, tokens, samples)

    def _choose(self, site: Attention, tokens: int, samples: Sequence[Sample]) -> Reordering | Refused:
        if site.has_mask and self.max_error is not None:
            return Refused("its mask is not among the samples, so that max_error cannot be judged")
        grid, samples = self._grid(tokens), [] if site.has_mask else samples
        asked = Asked(grid, site.heads, site.scale, self.density, self.block, self.max_error, site.causal, samples)
        choice = self._pattern.choose(asked)
        everything = len(choice.map.dense_heads) == site.heads
        if everything and self.max_error is not None and choice.error is not None:
            return Refused(f"every head's output error is above max_error {self.max_error:g}, the least is {float(choice.error.min()):.2g}")
        if everything and not self._pattern.exact_density:
            return Refused(f"{self.pattern} keeps every block of {tokens} tokens")
        return Reordering(choice.map, choice)


def untouchable(site: Attention, reorders: bool) -> Refused | None:
    """Why an attention cannot be made block-sparse, None when it can. What its length has to be is not asked here."""
    if site.block_map is not None:
        return Refused(f"block-sparse already, density {site.block_map.density:.2f}")
    if site.causal and reorders:
        return Refused("causal attention: its order of tokens has a meaning")
    if site.has_mask and reorders:
        return Refused("its mask would have to be reordered with every head; only attention without a mask is")
    if site.heads % site.kv_heads:
        return Refused(f"{site.kv_heads} heads of keys cannot serve {site.heads} heads of queries evenly")
    if None not in (site.tokens, site.kv_tokens) and site.tokens != site.kv_tokens:
        return Refused(f"cross attention: {site.tokens} queries, {site.kv_tokens} keys")
    return Refused(site.bound) if site.bound else None


def _orders_by_head(found: BlockMap) -> Iterator[str]:
    """'order FHW for heads 0, 2', the sparse heads only; nothing where all have the model's."""
    from sparsecc.attention import orders

    if found.orders is None:
        return
    dense, names = found.dense_heads, orders.names(found)
    for name in sorted(set(names), key=orders.NAMES.index):
        heads = [str(head) for head, its in enumerate(names) if its == name and head not in dense]
        if heads:
            order = f"order {name}" if name != "own" else "an order of its own"
            yield f"{order} for head{'s' * (len(heads) > 1)} {', '.join(heads)}"


def plan_of(graph: Graph) -> Plan:
    """The block maps that a graph holds, to be saved and used for this model again. Attention whose blocks are chosen in each call has
    none."""
    from sparsecc.attention.plan import Plan

    return Plan.of(
        _fingerprint(graph), {site.name: site.block_map for site in graph.sites(Attention) if isinstance(site.block_map, BlockMap)}
    )


def _fingerprint(graph: Graph) -> str:
    from sparsecc.attention.plan import fingerprint

    return fingerprint((site.name, site.heads, site.head_dim) for site in graph.sites(Attention))


def _require_made_for(plan: Plan, graph: Graph, path: str) -> None:
    missing = [name for name in plan.sites if name not in {site.name for site in graph.sites(Attention)}]
    if missing:
        raise RecipeError(f"{path}: made for another model, which had an attention '{missing[0]}'")
    if plan.model != _fingerprint(graph):
        raise RecipeError(f"{path}: made for another model: its attention has other names, heads or sizes; calibrate again")


def _unfit(samples: Sequence[Sample]) -> Refused | None:
    """What only the tensors tell."""
    for q, k, v in samples:
        if q.shape[2] != k.shape[2]:
            return Refused(f"cross attention: {q.shape[2]} queries, {k.shape[2]} keys")
        if q.shape[2] != samples[0].q.shape[2]:
            return Refused(f"{samples[0].q.shape[2]} tokens in one calibration input, {q.shape[2]} in another")
        if not all(x.isfinite().all() for x in (q, k, v)):
            return Refused("its q, k or v held NaN or infinity on a calibration input")
    return None
