"""Which layers become narrower together: those around the neurons of an Mlp, and those around the heads of an attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparsecc.errors import Refused
from sparsecc.graph.base import Graph
from sparsecc.graph.sites import Attention, Mlp

Kind = Literal["neurons", "heads"]


@dataclass(frozen=True)
class Group:
    """name: of the Mlp or attention, as `structured` takes it in its targets.  kind: what goes, as the field of that pass is called.
    layers: names of those whose rows the units are, and last the one whose columns they are.  units: how many there are."""

    name: str
    kind: Kind
    layers: tuple[str, ...]
    units: int

    @property
    def reader(self) -> str:
        """The layer that is given what the units give: its output is off once some are gone."""
        return self.layers[-1]


def groups(graph: Graph) -> dict[str, Group]:
    """By name, in the order of the model, those whose units can go one by one. A layer is in one group: of two Mlps with a layer in common
    the first counts."""
    found: dict[str, Group] = {}
    taken: set[str] = set()
    for site in graph.sites():
        if not isinstance(site, Mlp | Attention):
            continue
        channels = graph.channels(site)
        if isinstance(channels, Refused) or channels.units < 2:
            continue
        names = tuple(layer.name for layer in channels.layers)
        if taken.isdisjoint(names):
            taken.update(names)
            found[site.name] = Group(site.name, "neurons" if isinstance(site, Mlp) else "heads", names, channels.units)
    return found
