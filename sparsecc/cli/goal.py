"""sparsecc tune --goal"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.cli.common import say, working
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def toward(
    source: Path,
    goal: str,
    *,
    calib: Path | None,
    held_out: Path | None,
    out: Path | None,
    metric: str | None,
    minutes: float,
    recover: bool,
    target: str,
    threads: int | None,
    records: Path | None,
    input_shapes: Mapping[str, Sequence[int]] | None,
) -> bool:
    """Searches, writes what was found into the folder `out`, and prints it. Whether the goal is met."""
    import sparsecc
    from sparsecc.autotune import account
    from sparsecc.autotune.entry import require_machine
    from sparsecc.autotune.tune import search

    require_machine(target)

    if calib is None:
        raise UserError("--goal: models are calibrated and judged with samples; give them with --calib X.npz")
    if out is None:
        raise UserError("--goal: writes a recipe, a model and a page; name a folder for them with --out DIR")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is no folder; name another one with --out")
    try:
        with working(f"searching for {source.name}") as progress:
            there = {"target": target, "threads": threads, "records": records, "input_shapes": input_shapes}
            options = {"minutes": minutes, "recover": recover, "progress": progress}
            samples = {"calibration": calib, "held_out": held_out}
            found = search(source, goal=goal, **samples, folder=out, metric=metric, **options, **there)
            made = account.write(found, out, shlex.join(["sparsecc", *sys.argv[1:]]))
            if found.best is not None:
                recipe = found.best.again or found.best.recipe
                compiled = sparsecc.compile(source, recipe=recipe, calibration=found.samples, **there)
                compiled.save(out / account.MODEL)
                compiled.report.to_html(out / account.REPORT)
    except KeyboardInterrupt:
        if out.exists():
            say(f"{out}: holds what was measured; the same command goes on from there")
        raise
    print(made)
    say(f"{out}: {account.PAGE} shows all models" + (f", {account.MODEL} is the one that was chosen" if found.best is not None else ""))
    return made.met
