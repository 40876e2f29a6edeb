"""What a pass is: a frozen dataclass whose fields are its options; find first, then rewrite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from sparsecc import registry
from sparsecc.calibration.context import Context
from sparsecc.errors import Refused
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Site

if TYPE_CHECKING:
    from sparsecc.attention.base import Head

S = TypeVar("S", bound=Site)  # the sites that a pass looks at
A = TypeVar("A")  # what it does there; `str` of it is for the report
S_co = TypeVar("S_co", bound=Site, covariant=True)
A_co = TypeVar("A_co", covariant=True)


@dataclass(frozen=True)
class Match(Generic[S_co, A_co]):
    """A site and what will be done there (once it is done, in words), or why nothing will.

    layers: names of the sites whose weights that is about, where these are others.  heads: what was done to each head of an attention."""

    site: S_co
    action: A_co | Refused
    layers: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()

    @property
    def refused(self) -> Refused | None:
        return self.action.at(self.site.name) if isinstance(self.action, Refused) else None


@dataclass(frozen=True)
class PassResult:
    """graph: the rewritten graph.  modified: whether anything changed.  matches: every site looked at, refusals included.
    original: as in `Context`, for the passes that follow."""

    graph: Graph
    modified: bool
    matches: tuple[Match[Any, str], ...]
    original: Graph | None = None


class Example(NamedTuple):
    """A pass at work, for the laws and the reference. options: as in a recipe.

    on: the kinds of model in which these options find something to do: `transformer` (linear layers, norms, an Mlp, attention),
    `convolutions`, `with_norms` (convolutions and batch norms); weights of some layers are 2:4 already.
    torch_only: whether only torch models will do, as where it needs gradients.  settles: whether it finds nothing to do on its own result.
    """

    options: Mapping[str, Any]
    on: tuple[str, ...] = ("transformer", "convolutions", "with_norms")
    torch_only: bool = False
    settles: bool = True


@dataclass(frozen=True)
class Pass(ABC, Generic[S, A]):
    """Graph → Graph, without memory. A subclass names the type of its sites, and of what it does there. It adds fields; the recipe,
    defaults and help all come from these.

    targets: the layers to work on, as names, kinds or `re:` expressions. An empty list means every layer that the pass can take.
    ignore: layers to leave out, in the same form.
    """

    reorders: ClassVar[bool] = False  # `rewrite` changes nothing but the order of things, and finds its layers by their names
    changes_outputs: ClassVar[bool] = True  # of the model; False: it only stores what is there in another way
    examples: ClassVar[tuple[Example, ...]] = ()

    @abstractmethod
    def find(self, graph: Graph, context: Context) -> Iterator[Match[S, A]]:
        """Pure: the sites and what would be done to each. `explain` prints this."""

    @abstractmethod
    def rewrite(self, graph: Graph, site: S, action: A, /) -> None:
        """Edit the graph at one site, as `find` said."""

    def head_rows(self, action: A, /) -> Sequence[Head]:
        """What the report says of each head of an attention; nothing where a pass does not look at heads one by one."""
        return ()

    @property
    def asked_pattern(self) -> str | None:
        """The zeros that weights have afterwards, as recipes write them; None for a pass that is not asked for any."""
        return None

    def apply(self, graph: Graph, context: Context = Context()) -> PassResult:
        """Find on the graph as given, rewrite a copy."""
        result = graph.copy()
        found = list(self.find(result, context))
        original = self._reordered(context.original, found)
        done = []
        while found:
            match = found.pop(0)
            if isinstance(match.action, Refused):
                done.append(match)
                continue
            self.rewrite(result, match.site, match.action)
            done.append(replace(match, action=str(match.action), heads=tuple(self.head_rows(match.action))))
        return PassResult(result, any(match.refused is None for match in done), tuple(done), original)

    def _reordered(self, original: Graph | None, matches: Sequence[Match[S, A]]) -> Graph | None:
        """The model as it came in the order that `rewrite` gives this one, so that layers can still be compared by name."""
        if not self.reorders or original is None or all(isinstance(match.action, Refused) for match in matches):
            return original
        original = original.copy()
        for match in matches:
            if not isinstance(match.action, Refused):
                self.rewrite(original, match.site, match.action)
        return original


def registered_name(step: Pass) -> str:
    """The name of a pass in a recipe: its file's."""
    return registry.name_of(step)
