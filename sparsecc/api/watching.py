"""Looking at a model between the passes of a recipe: printed, kept as files, or checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsecc.api import compare
from sparsecc.errors import SparseccError, UserError
from sparsecc.files import write_text
from sparsecc.graph.sites import Attention, WeightSite
from sparsecc.graph.text import changes
from sparsecc.registry import did_you_mean

if TYPE_CHECKING:
    from sparsecc.attention.base import BlockMap
    from sparsecc.attention.dynamic import DynamicMap
    from sparsecc.graph.base import Graph
    from sparsecc.passes.pipeline import Hook, Step
    from sparsecc.recipe import Recipe
    from sparsecc.report.base import Check

KERNELS = "kernels"  # the folder of those in a dump


def printer(passes: Sequence[str], recipe: Recipe, say: Callable[[str], None]) -> Hook:
    """Says the graph after each of these passes. Raises UserError for one that the recipe does not have."""
    from sparsecc.passes.base import registered_name

    known = [registered_name(step) for step in recipe.passes]
    for name in passes:
        if name not in known:
            raise UserError(f"--print-after: no {name!r} in the recipe{did_you_mean(name, known)}")

    def after(step: Step) -> None:
        if step.name in passes:
            say(f"after passes[{step.number}].{step.name}\n{step.result.graph}")

    return after


class Dump:
    """A folder with one numbered file for each pass: what it changed in the graph's text, then the text. `0-start.txt` is the model as it
    came. Kernels are put there by codegen, in a folder of their own.

    Raises UserError for a folder that holds something, and for what is no folder.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            empty = not any(self.folder.iterdir())
        except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
            raise UserError(f"{fspath(folder)}: cannot be a folder to dump into: {getattr(error, 'strerror', None) or error}") from None
        self._last = ""
        if not empty:
            raise UserError(f"{fspath(folder)}: holds something already; name a new folder to dump into")

    @property
    def kernels(self) -> Path:
        return self.folder / KERNELS

    def __call__(self, step: Step) -> None:
        if step.number == 0:
            self._last = str(step.before)
            write_text(self.folder / "0-start.txt", self._last)
        before, after = self._last, str(step.result.graph)
        self._last = after
        changed = changes(before, after, step.name) or f"{step.name} changed nothing\n"
        write_text(self.folder / f"{step.number + 1}-{step.name}.txt", f"{changed}\n{after}")


class Verify:
    """After each pass: the graph holds together, and computes what the graph before it computes with the same weights, dense. One whose
    pass only puts things in another order computes what the graph before it does.

    What a pass is meant to change besides weights cannot be compared so: another number of neurons or heads, attention that leaves blocks
    out. Nor can a model that draws random numbers. It is said, and the graph only run.
    allowed: how far outputs may be apart, see `api.tolerance`, for the dtypes that weights are stored in.
    """

    def __init__(self, example: Sequence[Any], allowed: Callable[[set[str]], float], say: Callable[[str], None]) -> None:
        self._example, self._allowed, self._say = list(example), allowed, say

    def __call__(self, step: Step) -> None:
        place, graph = f"passes[{step.number}].{step.name}", step.result.graph
        require_sound(graph, place)
        outputs = graph.run(self._example).outputs
        if reason := _incomparable(step.before, graph) or self._random(graph, outputs):
            self._say(f"{place}: holds together; not compared: {reason}")
            return
        before = step.before if step.by.reorders else _masked(step.before, graph)
        check = compare.compare(outputs, before.run(self._example).outputs)
        allowed = self._allowed({site.form.stored_dtype for site in graph.sites(WeightSite) if site.form is not None})
        if not check.max_rel <= allowed:
            raise SparseccError(f"{place}: outputs differ from those of the {check.against}: {_how(check)}, {allowed:g} allowed")
        self._say(f"{place}: holds together; outputs differ by {check.max_rel:.2g} of the largest from the masked model's")

    def _random(self, graph: Graph, outputs: Sequence[Any]) -> str | None:
        """Why the outputs of two runs need not agree, None where they do."""
        if graph.random:
            return f"{graph.random} gives other numbers each time"
        again = compare.compare(outputs, graph.run(self._example).outputs)
        return None if again.max_abs == 0 else "the model gives other outputs each time"


def require_sound(graph: Graph, place: str) -> None:
    """Raises SparseccError when names repeat, or a stored weight is not what its site says."""
    names = [site.name for site in graph.sites()]
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise SparseccError(f"{place}: two sites are called '{repeated}'")
    for site in graph.sites(WeightSite):
        shape, bias = tuple(site.matrix.shape), site.bias
        if shape != (site.rows, site.cols):
            raise SparseccError(f"{place}: layer '{site.name}' is {site.rows}x{site.cols}, its weight {'x'.join(map(str, shape))}")
        if bias is not None and bias.numel() != site.rows:
            raise SparseccError(f"{place}: layer '{site.name}' has {site.rows} rows and a bias of {bias.numel()}")


def _masked(before: Graph, after: Graph) -> Graph:
    """The graph before a pass with the weights after it, dense."""
    result, new = before.copy(), {site.name: site for site in after.sites(WeightSite)}
    for site in before.sites(WeightSite):
        stored = new[site.name].stored
        if site.form is None and stored is not site.stored and not site.shared:
            result.set_weight(site, new[site.name].weight)
            if site.bias is not None and new[site.name].bias is not None:
                result.set_bias(site, new[site.name].bias)  # type: ignore[arg-type]
    return result


def _incomparable(before: Graph, after: Graph) -> str | None:
    old, new = ({site.name: site for site in graph.sites(WeightSite)} for graph in (before, after))
    if old.keys() != new.keys():
        return "the pass changed which layers there are"
    narrowed = next((name for name in old if old[name].shape != new[name].shape), None)
    if narrowed is not None:
        return f"layer '{narrowed}' was {'x'.join(map(str, old[narrowed].shape))}, it is {'x'.join(map(str, new[narrowed].shape))}"
    maps = [{site.name: site.block_map for site in graph.sites(Attention)} for graph in (before, after)]
    sparse = next((name for name in maps[1] if not _same_map(maps[1][name], maps[0].get(name))), None)
    return None if sparse is None else f"attention '{sparse}' leaves blocks out"


def _same_map(new: BlockMap | DynamicMap | None, old: BlockMap | DynamicMap | None) -> bool:
    if new is None or old is None:
        return new is old
    return new.same_as(old)


def _how(check: Check) -> str:
    return check.reason or f"by {check.max_rel:.2g} of the largest one"
