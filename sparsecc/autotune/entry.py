"""`sparsecc.tune`: kernels for a recipe, or a recipe for a goal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from sparsecc import api
from sparsecc.autotune.tune import MINUTES, search
from sparsecc.errors import UserError
from sparsecc.ranks.world import world

if TYPE_CHECKING:
    from sparsecc.autotune.goal import Goal

Path = str | PathLike[str]


def tune(
    model: Any,
    example_inputs: Any = None,
    *,
    records: Path | None = None,
    goal: str | Sequence[str] | Mapping[str, Any] | Goal | None = None,
    metric: str | Callable[..., Any] | None = None,
    minutes: float = MINUTES,
    folder: Path | None = None,
    recover: bool = True,
    recipe: Any = None,
    calibration: Iterable[Any] | Path | None = None,
    held_out: Iterable[Any] | Path | None = None,
    target: str = "cpu",
    threads: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    progress: Callable[[Any], None] | None = None,
    cache: Path | None = None,
    tracker: str | None = None,
    key: str | None = None,
    notice: Callable[[str], None] | None = None,
) -> Any:
    """With a goal, a `Found` as `autotune.tune.search` gives it: the recipe that reaches it on this machine's CPU or GPU; `calibration` and
    `folder` are needed; `held_out` may bring samples to judge models by, `recover` says whether the best models learn what pruning cost.
    Without one, a `TuningResult` as `api.tune` gives it: faster kernels for the layers that `recipe` makes, noted in `records`, which is
    needed then.

    Raises UserError and its children for what the caller can mend, and for arguments that belong to the other of the two.
    """
    if world().size > 1:
        raise UserError("tune: measures times, and runs in one process; call it outside of spread()")
    if goal is None:
        _reject("goal", metric=metric, folder=folder, held_out=held_out, recover=None if recover else False)
        if records is None:
            raise UserError("records: name a file for what is measured, or give a goal")
        options = {"target": target, "threads": threads, "input_shapes": input_shapes, "trials": trials, "seconds": seconds}
        options |= {"recipe": recipe, "calibration": calibration, "seed": seed, "progress": progress, "cache": cache}
        options |= {"tracker": tracker, "key": key, "notice": notice}
        return api.tune(model, example_inputs, records=records, **options)
    _reject("kernels, not with a goal", recipe=recipe, trials=trials, seconds=seconds, cache=cache)
    _reject("kernels, not with a goal", tracker=tracker, key=key, notice=notice)
    require_machine(target)
    if calibration is None:
        raise UserError("calibration: models are calibrated and judged with samples")
    if folder is None:
        raise UserError("folder: name one for what is measured and found")
    options = {"held_out": held_out, "metric": metric, "minutes": minutes, "recover": recover, "threads": threads, "records": records}
    options |= {"input_shapes": input_shapes, "target": target}
    return search(model, example_inputs, goal=goal, calibration=calibration, folder=folder, seed=seed, progress=progress, **options)


def require_machine(target: str) -> None:
    """Raises UserError for a target that is neither the CPU nor the GPU here, on which a goal is searched for."""
    if target not in ("cpu", "cuda"):
        raise UserError(f"target {target!r}: a goal is searched for on this machine; name its CPU or GPU, as cpu or cuda")


def _reject(what: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name}: goes with {what}")
