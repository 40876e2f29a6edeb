"""Block maps in the forms that other libraries take, and back. The files: docs/how-it-works/plans.md.

flex: lists of blocks, as FlexAttention's `BlockMask.from_kv_blocks` takes them.
bsr: block sparse rows, `indptr` and `indices` for each head.
bitmap: `mask_id` as SpargeAttn and SageAttention's block-sparse kernels take it, in blocks of 128 queries and 64 keys.

All are over the reordered sequence: row p of a head's q, k and v is the token `places[head, p]`, and row p of the output belongs to it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsecc.attention.base import BlockMap
from sparsecc.attention.plan import Plan, Planned
from sparsecc.errors import RecipeError
from sparsecc.files import replacing

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

FORMS = ("flex", "bsr", "bitmap")
MASK_BLOCKS = (128, 64)  # queries and keys of a block of `mask_id`


class Flex(NamedTuple):
    """int32. How many blocks of keys each block of queries sees, [1, heads, query_blocks], and which, [1, heads, query_blocks, key_blocks],
    those first that are seen. Blocks of the first two need a mask: the last where it is short, and the diagonal where it is causal."""

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor


class Bsr(NamedTuple):
    """int32. Row r of a head's blocks keeps the columns indices[indptr[r] : indptr[r + 1]], ascending."""

    indptr: Tensor
    indices: Tensor


def to_flex(found: BlockMap) -> Flex:
    partial = torch.zeros_like(found.keep)
    if found.grid.tokens % found.block:
        partial[:, :, -1] = True
    if found.causal:
        partial |= torch.eye(partial.shape[1], dtype=torch.bool, device=partial.device)
    return Flex(*listed(found.keep & partial), *listed(found.keep & ~partial))


def from_flex(flex: Flex) -> Tensor:
    """bool[heads, query_blocks, key_blocks]: what is kept."""
    blocks = flex.kv_indices.shape[-1]
    partial, full = _unlisted(flex.kv_num_blocks, flex.kv_indices), _unlisted(flex.full_kv_num_blocks, flex.full_kv_indices)
    return (partial | full).reshape(-1, blocks, blocks)


def to_bsr(found: BlockMap) -> list[Bsr]:
    """Of each head."""
    return [Bsr(_ends(head.sum(1)), head.nonzero()[:, 1].int()) for head in found.keep]


def from_bsr(heads: list[Bsr]) -> Tensor:
    """bool[heads, query_blocks, key_blocks]: what is kept."""
    blocks = len(heads[0].indptr) - 1
    keep = torch.zeros(len(heads), blocks, blocks, dtype=torch.bool, device=heads[0].indptr.device)
    for of_head, (indptr, indices) in zip(keep, heads, strict=True):
        rows = torch.arange(blocks, device=keep.device).repeat_interleave(indptr.diff().long())
        of_head[rows, indices.long()] = True
    return keep


def to_bitmap(found: BlockMap) -> Tensor:
    """int8[1, heads, ⌈tokens / 128⌉, ⌈tokens / 64⌉], 1 where a block is computed. Of a map in blocks of 64 two rows become one, which
    keeps what one of them keeps: more is computed than the map says. Raises RecipeError for other blocks than 64 and 128."""
    rows, columns = (-(-found.grid.tokens // size) for size in MASK_BLOCKS)
    if found.block == MASK_BLOCKS[1]:
        even = torch.nn.functional.pad(found.keep, (0, 0, 0, 2 * rows - columns))
        return even.view(found.heads, rows, 2, columns).any(2).to(torch.int8)[None]
    if found.block == MASK_BLOCKS[0]:
        return found.keep.repeat_interleave(2, 2)[:, :, :columns].to(torch.int8)[None]
    raise RecipeError(f"mask ids are in blocks of 128 queries and 64 keys, the map's blocks are of {found.block} tokens; 64 and 128 fit")


def block_mask(found: BlockMap, device: torch.device | str = "cpu") -> BlockMask:
    """For `flex_attention`, over the reordered sequence. Compile that: in eager mode it reads the mask function alone, which lets every
    block through."""
    from torch.nn.attention.flex_attention import BlockMask

    tokens, flex = found.grid.tokens, Flex(*(part.to(device) for part in to_flex(found)))
    seen = _seen(tokens, found.causal)
    return BlockMask.from_kv_blocks(*flex, BLOCK_SIZE=found.block, mask_mod=seen, seq_lengths=(tokens, tokens))


class Exported(NamedTuple):
    """One map of an exported plan. about: its row in the file's head.  keep: bool[heads, rows, columns] in the blocks of the form.
    places: int32[heads, tokens], None where the tokens keep the model's order."""

    about: Mapping[str, Any]
    keep: Tensor
    places: Tensor | None


def write(plan: Plan, form: str, path: str | PathLike[str]) -> list[float]:
    """An .npz with the plan in one of `FORMS`. For each map the share of the blocks that is computed as exported.

    The file is read back and compared with the plan before it takes the place of `path`. Raises RecipeError for a map that the form does
    not hold.
    """
    if form not in FORMS:
        raise RecipeError(f"form {form!r} is none of {', '.join(FORMS)}")
    head = {"form": form, "model": plan.model, "sites": [_about(planned) for planned in plan.planned]}
    with replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
            _store(file, "head", np.array(json.dumps(head)))
            for i, planned in enumerate(plan.planned):
                for key, tensor in _tensors(planned.map, form).items():
                    _store(file, f"{i}.{key}", tensor.cpu().numpy())
        return [_compared(planned, form, found) for planned, found in zip(plan.planned, read(temporary), strict=True)]


def read(path: str | PathLike[str]) -> list[Exported]:
    """What `write` has written. Raises RecipeError for another file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            head = json.loads(str(stored["head"]))
            return [_exported(head["form"], i, about, stored) for i, about in enumerate(head["sites"])]
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, zipfile.BadZipFile) as error:
        raise RecipeError(f"{path}: no exported plan ({type(error).__name__}: {error})") from None


def _about(planned: Planned) -> dict[str, Any]:
    found = planned.map
    sizes = {"block": found.block, "tokens": found.grid.tokens, "causal": found.causal}
    return {"name": planned.site, "steps": list(planned.steps), "grid": asdict(found.grid), **sizes}


def _tensors(found: BlockMap, form: str) -> dict[str, Tensor]:
    places = {} if found.orders is None else {"places": found.places().int()}
    if form == "flex":
        return {**places, **to_flex(found)._asdict()}
    if form == "bitmap":
        return {**places, "mask_id": to_bitmap(found)}
    heads = to_bsr(found)
    return {**places, "indptr": torch.stack([head.indptr for head in heads]), "indices": torch.cat([head.indices for head in heads])}


def _exported(form: str, index: int, about: Mapping[str, Any], stored: Mapping[str, np.ndarray]) -> Exported:
    def tensor(key: str) -> Tensor:
        return torch.from_numpy(stored[f"{index}.{key}"])

    places = tensor("places") if f"{index}.places" in stored else None
    if form == "flex":
        return Exported(about, from_flex(Flex(*map(tensor, Flex._fields))), places)
    if form == "bitmap":
        return Exported(about, tensor("mask_id")[0].bool(), places)
    indptr = tensor("indptr")
    parts = tensor("indices").split(indptr[:, -1].tolist())
    return Exported(about, from_bsr([Bsr(*head) for head in zip(indptr, parts, strict=True)]), places)


def _compared(planned: Planned, form: str, found: Exported) -> float:
    """The share of blocks computed. Raises ValueError where the file does not say what the plan says."""
    before, dense = planned.map, planned.map.full.expand_as(planned.map.keep)
    keep = before.keep
    if form == "bitmap":
        keep, dense = (to_bitmap(replace(before, keep=blocks))[0].bool() for blocks in (keep, dense))
    same = torch.equal(found.keep, keep.cpu()) and dict(found.about) == json.loads(json.dumps(_about(planned)))
    if not (same and (found.places is None) == (before.orders is None)):
        raise ValueError(f"attention '{planned.site}' was not exported as it is")
    if found.places is not None and not torch.equal(found.places, before.places().int().cpu()):
        raise ValueError(f"attention '{planned.site}' was not exported in its order")
    return int(found.keep.count_nonzero()) / int(dense.count_nonzero())


def listed(keep: Tensor) -> tuple[Tensor, Tensor]:
    """int32: how many columns each row of blocks keeps, [1, heads, rows], and which, those first, [1, heads, rows, columns]."""
    return keep.sum(2).int()[None], torch.sort(keep.int(), dim=2, descending=True, stable=True).indices.int()[None]


@cache
def _seen(tokens: int, causal: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask within partial blocks. One function for all maps of a size, for which FlexAttention is compiled once then."""

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key < tokens) if causal else key < tokens

    return seen


def _unlisted(counts: Tensor, indices: Tensor) -> Tensor:
    """bool[1, heads, query_blocks, key_blocks]"""
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts[..., None]
    return torch.zeros_like(listed).scatter_(3, indices.long(), listed)


def _ends(counts: Tensor) -> Tensor:
    """int32: where rows of so many entries begin and end."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def _store(file: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """One array at a time: the lists of a video model take more than a gigabyte. The same bytes for the same array, without a time."""
    about = zipfile.ZipInfo(f"{name}.npy")
    about.compress_type = zipfile.ZIP_DEFLATED
    with file.open(about, "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)
