"""What a pass is: a frozen dataclass whose fields are its options; find first, then rewrite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, ClassVar, Literal, NamedTuple

from sparsecc import registry
from sparsecc.errors import Refused
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Site


@dataclass(frozen=True)
class Match:
    """A site and what will be done there (pass-specific; once it is done, in words), or why nothing will.

    layers: names of the sites whose weights that is about, where these are others."""

    site: Site
    action: Any | Refused
    layers: tuple[str, ...] = ()

    @property
    def refused(self) -> Refused | None:
        return self.action.at(self.site.name) if isinstance(self.action, Refused) else None


@dataclass(frozen=True)
class Progress:
    """How far a pass that takes long is: `done` of `total` steps, and a word on how it goes."""

    what: str
    done: int
    total: int
    note: str = ""


Clock = Callable[[Graph, str, Sequence[str]], Mapping[str, Callable[[float], float]]]
"""(model, pattern, names of sites) → for each of them, share of its weights kept → milliseconds; no less for a larger share."""


@dataclass(frozen=True)
class Context:
    """What a pass may need beside the graph. calibration: input tuples or name → array dicts, None when the user gave none.

    original: the model as it came, before the first pass of the recipe, its neurons in the order that they have by now; None where a
    pass is applied by itself.  progress: called by passes that take minutes.
    clock: what layers take in code generated for a machine; None where there is none.
    scratch: a folder in which pruned weights are kept, not in memory: for models that are larger than it.
    destination: what the result is for: `code` that sparsecc generates, or an `onnx` file for a stock onnxruntime."""

    calibration: Sequence[Sequence[Any] | Mapping[str, Any]] | None = None
    seed: int = 0
    original: Graph | None = None
    progress: Callable[[Progress], None] | None = None
    scratch: str | PathLike[str] | None = None
    clock: Clock | None = None
    destination: Literal["code", "onnx"] = "code"


@dataclass(frozen=True)
class PassResult:
    """graph: the rewritten graph.  modified: whether anything changed.  matches: every site looked at, refusals included.
    original: as in `Context`, for the passes that follow."""

    graph: Graph
    modified: bool
    matches: tuple[Match, ...]
    original: Graph | None = None


class Example(NamedTuple):
    """A pass at work, for the laws and the reference. options: as in a recipe.

    on: the kinds of model in which these options find something to do: `transformer` (linear layers, norms, an Mlp, attention),
    `convolutions`, `with_norms` (convolutions and batch norms); weights of some layers are 2:4 already.
    gradients: whether it needs them, so that only torch models will do.  settles: whether it finds nothing to do on its own result.
    """

    options: Mapping[str, Any]
    on: tuple[str, ...] = ("transformer", "convolutions", "with_norms")
    gradients: bool = False
    settles: bool = True


@dataclass(frozen=True)
class Pass(ABC):
    """Graph → Graph, without memory. Subclasses add fields; the recipe, defaults and help all come from the fields.

    targets: the layers to work on, as names, kinds or `re:` expressions. An empty list means every layer that the pass can take.
    ignore: layers to leave out, in the same form.
    """

    reorders: ClassVar[bool] = False  # `rewrite` changes nothing but the order of things, and finds its layers by their names
    changes_outputs: ClassVar[bool] = True  # of the model; False: it only stores what is there in another way
    examples: ClassVar[tuple[Example, ...]] = ()

    @abstractmethod
    def find(self, graph: Graph, context: Context) -> Iterator[Match]:
        """Pure: the sites and what would be done to each. `explain` prints this."""

    @abstractmethod
    def rewrite(self, graph: Graph, match: Match) -> None:
        """Edit the graph at one match that is not refused."""

    @property
    def asked_pattern(self) -> str | None:
        """The zeros that weights have afterwards, as recipes write them; None for a pass that is not asked for any."""
        return None

    def apply(self, graph: Graph, context: Context = Context()) -> PassResult:
        """Find on the graph as given, rewrite a copy."""
        result = graph.copy()
        matches = list(self.find(result, context))
        taken = [index for index, match in enumerate(matches) if match.refused is None]
        original = self._reordered(context.original, [matches[index] for index in taken])
        for index in taken:
            self.rewrite(result, matches[index])
            matches[index] = replace(matches[index], action=str(matches[index].action))  # a mask is as large as a quarter of its weight
        return PassResult(result, bool(taken), tuple(matches), original)

    def _reordered(self, original: Graph | None, matches: Sequence[Match]) -> Graph | None:
        """The model as it came in the order that `rewrite` gives this one, so that layers can still be compared by name."""
        if not self.reorders or original is None or not matches:
            return original
        original = original.copy()
        for match in matches:
            self.rewrite(original, match)
        return original


def registered_name(step: Pass) -> str:
    """The name of a pass in a recipe: its file's."""
    return registry.name_of(step)
