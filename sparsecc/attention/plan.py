"""Plan files: the block maps of a model's attention sites, calibrated once and used again. Format: docs/how-it-works/plans.md."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsecc.attention.base import BlockMap, Grid
from sparsecc.errors import RecipeError
from sparsecc.files import json_text, replacing, require_regular, write_text

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
_LARGEST_PLAN = 1 << 24  # bytes of text


@dataclass(frozen=True, eq=False)
class Plan:
    """model: `fingerprint` of the model that the maps are for.  maps: by site name."""

    model: str
    maps: Mapping[str, BlockMap]

    def save(self, path: str | PathLike[str]) -> None:
        """Write `path`, which ends in .json, and the arrays beside it. An older plan at `path` is replaced whole or not at all."""
        target = Path(path)
        if target.suffix != ".json":
            raise RecipeError(f"{path}: a plan's name ends in .json")
        content = _npz({key: array for i, found in enumerate(self.maps.values()) for key, array in _arrays(i, found).items()})
        checksum = hashlib.sha256(content).hexdigest()
        arrays = target.with_name(f"{target.stem}.{checksum[:12]}.npz")
        with replacing(arrays) as temporary:
            temporary.write_bytes(content)
        old = _old_arrays(target)
        sites = [_site(name, found) for name, found in self.maps.items()]
        write_text(target, json_text({"plan": VERSION, "model": self.model, "arrays": arrays.name, "sha256": checksum, "sites": sites}))
        if old is not None and old != arrays and not _is_named(old):
            old.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Raises RecipeError, naming the file, for one that is missing, damaged or from another version."""
        require_regular(path, RecipeError)
        try:
            head = json.loads(Path(path).read_text(encoding="utf-8"))
            if head["plan"] != VERSION:
                raise RecipeError(f"{path}: a plan of version {head['plan']}, this sparsecc reads {VERSION}; calibrate again")
            arrays = Path(path).with_name(Path(head["arrays"]).name)
            content = arrays.read_bytes()
            if hashlib.sha256(content).hexdigest() != head["sha256"]:
                raise RecipeError(f"{path}: {arrays.name} is not the file that was written with it")
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                maps = {site["name"]: _map(i, site, stored) for i, site in enumerate(head["sites"])}
            return cls(str(head["model"]), maps)
        except OSError as error:
            raise RecipeError(f"{error.filename or path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
            raise RecipeError(f"{path}: no plan that this sparsecc wrote ({type(error).__name__}: {error})") from None


def fingerprint(sites: Iterable[tuple[str, int, int]]) -> str:
    """sha256 of a model's attention: (name, heads, head_dim) of all its sites, in execution order. The weights are no part of it."""
    return hashlib.sha256(json.dumps([list(site) for site in sites]).encode()).hexdigest()


def _site(name: str, found: BlockMap) -> dict[str, Any]:
    site: dict[str, Any] = {"name": name, "grid": asdict(found.grid), "block": found.block}
    return site | ({"causal": True} if found.causal else {})


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
