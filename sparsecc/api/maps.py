"""Pictures of the attention maps that a recipe has made block-sparse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.attention.base import BlockMap
from sparsecc.errors import UserError
from sparsecc.graph.sites import Attention
from sparsecc.report.block_map import HeadMap, picture

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.api.rewriting import Rewritten
    from sparsecc.report.base import HeadReport, Report

HEADS = 8  # of a picture


def draw(result: Rewritten, report: Report, folder: str | PathLike[str]) -> list[Path]:
    """Write PNGs into the folder, which is made: of each attention that became block-sparse the mass of every head's blocks before and
    after, for what enters it in the model as it came, on the first calibration input.

    Raises UserError where there are no such attentions or no inputs.
    """
    before = {site.name: site for site in result.original.sites(Attention)} if result.original is not None else {}
    found = [site for site in result.graph.sites(Attention) if isinstance(site.block_map, BlockMap) and site.name in before]
    found = [site for site in found if before[site.name].block_map is None and before[site.name].heads == site.heads]
    if not found:
        raise UserError("maps: the recipe makes no attention block-sparse, so that there is nothing to draw")
    if not result.calibration:
        raise UserError("maps: are drawn from what enters attention on a calibration input; pass calibration= (--calib)")
    assert result.original is not None
    rows = {site.name: site.heads for site in report.sites}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be a folder for pictures: {error.strerror}") from None
    written: list[Path] = []
    for number, site in enumerate(found):
        taps = result.original.run(result.calibration[0], [site.name]).taps[site.name]
        for start in range(0, site.heads, HEADS):
            heads = range(start, min(start + HEADS, site.heads))
            written.append(folder / f"{number:03}-{_file_name(site.name)}-heads-{start}-{heads[-1]}.png")
            title = f"{site.name}{', without its mask' if site.has_mask else ''}"
            picture(written[-1], list(_maps(site, taps, heads, rows[site.name])), title=_drawable(title))
    return written


def _maps(site: Attention, taps: Sequence[Tensor], heads: Sequence[int], rows: Sequence[HeadReport]) -> Iterator[HeadMap]:
    from sparsecc.attention.base import Asked, Sample
    from sparsecc.attention.judge import average_mass, inputs_of

    found = site.block_map
    assert isinstance(found, BlockMap)
    asked = Asked(found.grid, found.heads, site.scale, 1.0, found.block, causal=found.causal, samples=[Sample(*taps)])
    raster, places = found.grid.permutation(0), found.places()
    for head in heads:
        inputs = inputs_of(asked, head)
        before, after = (average_mass(inputs, order.cpu(), site.scale, found.block, found.causal).mass for order in (raster, places[head]))
        yield HeadMap(before.numpy(), after.numpy(), found.keep[head].cpu().numpy(), rows[head].order, _said(head, rows[head]))


def _said(number: int, head: HeadReport) -> str:
    costs = (f"{name} {value:.2g}" for name, value in (("lost mass", head.lost), ("output error", head.error)) if value is not None)
    return ", ".join([f"head {number}: density {head.density:.3f}", *costs])


def _file_name(name: str) -> str:
    """Names come from the model's file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[-80:].strip("._") or "attention"


def _drawable(name: str) -> str:
    """matplotlib sets what stands between two $ as mathematics."""
    return re.sub(r"[^ -~]", "?", name).replace("$", r"\$")
