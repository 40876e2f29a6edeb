"""Where in a model it was that torch.export gave up."""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

_TORCH = str(Path(torch.__file__).parent) + os.sep


def place_of(module: nn.Module, error: BaseException) -> str:
    """The path of the innermost module that was running, with file, line and code of what it did; "" where no module was."""
    frames = list(_frames(error))
    paths = {id(part): path for path, part in module.named_modules()}
    running = [place for place, (frame, _) in enumerate(frames) if id(_owner(frame)) in paths]
    path = next((path for place in reversed(running) if (path := paths[id(_owner(frames[place][0]))])), "")
    own = list(takewhile(_is_theirs, frames[running[-1] :])) if running else []
    return ", ".join(part for part in (path, _line(*own[-1]) if own else "") if part)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Outermost first, of the error that was there first."""
    while error.__cause__ is not None:
        error = error.__cause__
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _owner(frame: FrameType) -> Any:
    """The module whose method runs in a frame."""
    owner = frame.f_locals.get("self")
    return owner if isinstance(owner, nn.Module) else None


def _is_theirs(step: tuple[FrameType, int]) -> bool:
    return not step[0].f_code.co_filename.startswith((_TORCH, "<"))


def _line(frame: FrameType, number: int) -> str:
    file = frame.f_code.co_filename
    code = linecache.getline(file, number).partition("  # ")[0].strip()
    return f"{Path(file).name}:{number}" + (f": {code}" if code else "")
