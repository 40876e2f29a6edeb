"""Plan files: the block maps of a model's attention sites, calibrated once and used again. Format: docs/how-it-works/plans.md."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.attention.steps import WHOLE, Part, part_with, spelt
from sparsecc.errors import RecipeError
from sparsecc.files import json_text, replacing, require_regular, write_text

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 2
_READABLE = (1, 2)  # a plan of version 1 has one map for each site, for all steps
_LARGEST_PLAN = 1 << 24  # bytes of text


@dataclass(frozen=True, eq=False)
class Planned:
    """The map of one attention for a part of the denoising steps.

    steps: where the part begins and ends, as fractions of the schedule: step i of n is in it where begin ≤ i / n < end. Raises ValueError
    for one that is no part of [0, 1].
    """

    site: str
    map: BlockMap
    steps: Part = WHOLE

    def __post_init__(self) -> None:
        begin, end = self.steps
        if not 0 <= begin < end <= 1:
            raise ValueError(f"attention '{self.site}': steps from {begin:g} to {end:g} are no part of 0 to 1")

    @property
    def when(self) -> str:
        """Reads after the site's name; "" for all steps."""
        return spelt(self.steps)


@dataclass(frozen=True, eq=False)
class Plan:
    """The block maps of a model's attention. An attention is dense where the plan has no map for it, and in steps for which it has none.
    Raises ValueError where two maps of one attention are for the same step.

    model: `fingerprint` of the model that the maps are for.  planned: maps, each with its attention and steps.  version: of the file
    that it came from.
    """

    model: str
    planned: Sequence[Planned]
    version: int = VERSION

    def __post_init__(self) -> None:
        parts = sorted((planned.site, planned.steps) for planned in self.planned)
        for (site, (_, end)), (other, (begin, _)) in pairwise(parts):
            if site == other and begin < end:
                raise ValueError(f"attention '{site}' has two maps for one step")

    @classmethod
    def of(cls, model: str, maps: Mapping[str, BlockMap]) -> Plan:
        """One map for each of these sites, for all steps."""
        return cls(model, [Planned(site, found) for site, found in maps.items()])

    @property
    def sites(self) -> list[str]:
        """The names of the attention that has maps."""
        return list(dict.fromkeys(planned.site for planned in self.planned))

    @property
    def parts(self) -> list[Part]:
        """The parts of the schedule in each of which the maps stay the same, from 0 to 1 without a gap, those in which all is dense
        included."""
        return list(pairwise(sorted({*WHOLE, *(edge for planned in self.planned for edge in planned.steps)})))

    def part(self, step: float) -> Part:
        """That of `parts` which a step is in: step i of n is i / n. Raises ValueError for one that is not in [0, 1)."""
        found = part_with(self.parts, step)
        if found is None or step >= 1:
            raise ValueError(f"step {step:g} is not in [0, 1); step i of n is i / n")
        return found

    def at(self, step: float) -> dict[str, BlockMap]:
        """The maps at a fraction of the schedule, by site. Attention that is not among them is dense there."""
        return {planned.site: planned.map for planned in self.planned if planned.steps[0] <= step < planned.steps[1]}

    @property
    def maps(self) -> dict[str, BlockMap]:
        """By site, where they are the same in all steps. Raises RecipeError where they are not: `at` gives those of one step."""
        for planned in self.planned:
            if planned.when:
                raise RecipeError(f"attention '{planned.site}' has a map for {planned.when} alone, so that a step has to be named")
        return self.at(0)

    def save(self, path: str | PathLike[str]) -> None:
        """Write `path`, which ends in .json, and the arrays beside it. An older plan at `path` is replaced whole or not at all."""
        target = Path(path)
        if target.suffix != ".json":
            raise RecipeError(f"{path}: a plan's name ends in .json")
        content = _npz({key: array for i, planned in enumerate(self.planned) for key, array in _arrays(i, planned.map).items()})
        checksum = hashlib.sha256(content).hexdigest()
        arrays = target.with_name(f"{target.stem}.{checksum[:12]}.npz")
        with replacing(arrays) as temporary:
            temporary.write_bytes(content)
        old = _old_arrays(target)
        sites = [_site(planned) for planned in self.planned]
        write_text(target, json_text({"plan": VERSION, "model": self.model, "arrays": arrays.name, "sha256": checksum, "sites": sites}))
        if old is not None and old != arrays and not _is_named(old):
            old.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Raises RecipeError, naming the file, for one that is missing, damaged or from another version."""
        require_regular(path, RecipeError)
        try:
            head = json.loads(Path(path).read_text(encoding="utf-8"))
            if head["plan"] not in _READABLE:
                raise RecipeError(f"{path}: a plan of version {head['plan']}, this sparsecc reads 1 and 2; calibrate again")
            arrays = Path(path).with_name(Path(head["arrays"]).name)
            content = arrays.read_bytes()
            if hashlib.sha256(content).hexdigest() != head["sha256"]:
                raise RecipeError(f"{path}: {arrays.name} is not the file that was written with it")
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                return cls(str(head["model"]), [_planned(i, site, stored) for i, site in enumerate(head["sites"])], head["plan"])
        except OSError as error:
            raise RecipeError(f"{error.filename or path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
            raise RecipeError(f"{path}: no plan that this sparsecc wrote ({type(error).__name__}: {error})") from None


def fingerprint(sites: Iterable[tuple[str, int, int]]) -> str:
    """sha256 of a model's attention: (name, heads, head_dim) of all its sites, in execution order. The weights are no part of it."""
    return hashlib.sha256(json.dumps([list(site) for site in sites]).encode()).hexdigest()


def _site(planned: Planned) -> dict[str, Any]:
    found = planned.map
    site: dict[str, Any] = {"name": planned.site, "grid": asdict(found.grid), "block": found.block}
    return site | ({"causal": True} if found.causal else {}) | ({"steps": list(planned.steps)} if planned.when else {})


def _planned(index: int, site: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> Planned:
    begin, end = site.get("steps", WHOLE)
    return Planned(str(site["name"]), _map(index, site, stored), (float(begin), float(end)))


def _arrays(index: int, found: BlockMap) -> dict[str, Tensor]:
    """Without orders where the tokens keep the model's."""
    from sparsecc.bits import pack_bits

    orders = {} if found.orders is None else {f"{index}.orders": found.orders}
    return {**orders, f"{index}.keep": pack_bits(found.keep)}


def _map(index: int, site: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> BlockMap:
    import torch

    from sparsecc.bits import unpack_bits

    grid, block = Grid(**site["grid"]), int(site["block"])
    orders = torch.from_numpy(stored[f"{index}.orders"]) if f"{index}.orders" in stored else None
    keep = unpack_bits(torch.from_numpy(stored[f"{index}.keep"]), grid.blocks(block))
    return BlockMap(grid, block, orders, keep, bool(site.get("causal", False)))


def _npz(tensors: Mapping[str, Tensor]) -> bytes:
    """The same bytes for the same arrays: numpy stamps no time into a zip."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **{name: tensor.cpu().numpy() for name, tensor in tensors.items()})
    return buffer.getvalue()


def _old_arrays(path: Path) -> Path | None:
    """The arrays that `save` wrote for the plan that is at `path` now: under a name that says what is in them."""
    try:
        arrays = path.with_name(str(json.loads(path.read_text(encoding="utf-8"))["arrays"]))
        checksum = hashlib.sha256(arrays.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return arrays if arrays.name == f"{path.stem}.{checksum[:12]}.npz" else None


def _is_named(arrays: Path) -> bool:
    """Whether another file beside them, as a copy of the old plan, names these arrays."""
    others = (file for file in arrays.parent.iterdir() if file.is_file() and file.suffix != arrays.suffix)
    return any(arrays.name.encode() in file.read_bytes() for file in others if file.stat().st_size < _LARGEST_PLAN)
