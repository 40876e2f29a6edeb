"""Steps told apart by their timesteps, and models that cannot have a plan."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sparsecc.errors import UserError
from sparsecc.integrations import play
from sparsecc.integrations.processors import Clock, transformer_of


@pytest.mark.parametrize("timesteps", [(999, 750, 500), (0.0, 0.25, 0.5)])
def test_steps_of_two_runs(timesteps: tuple[float, ...]) -> None:
    """Whether timesteps fall or rise; each is given twice, as with guidance."""
    clock, found = Clock(lambda: 3), []
    for timestep in (*timesteps, *timesteps):
        for _ in range(2):
            clock._note(timestep)
            found.append((clock.runs, clock.index))
    assert found == [(run, index) for run in (1, 2) for index in range(3) for _ in range(2)]
    assert clock.fraction == pytest.approx(2 / 3) and clock.count == 3


def test_a_pipeline_with_two_transformers() -> None:
    pipe = SimpleNamespace(transformer=nn.Linear(1, 1), transformer_2=nn.Linear(1, 1))
    with pytest.raises(UserError, match="SimpleNamespace has two transformers, each for a part of the steps; give them one by one"):
        transformer_of(pipe)
    pipe.transformer_2 = None
    assert transformer_of(pipe) is pipe.transformer


def test_a_mask_that_is_written_into_is_asked_again() -> None:
    mask = torch.ones(1, 1, 1, 8, dtype=torch.bool)
    assert play._all_seen(mask)
    mask[..., 4:] = False
    assert not play._all_seen(mask)
    with torch.inference_mode():
        assert not play._all_seen(torch.ones(1, 1, 1, 8, dtype=torch.bool))  # not known, so that it goes into the kernel
