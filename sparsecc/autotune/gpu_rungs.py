"""What is tried on a GPU: that which its kernels multiply by, with as many tokens as the model gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparsecc.autotune.rungs import DENSE, Rung, ladder
from sparsecc.errors import UserError

if TYPE_CHECKING:
    from sparsecc.api.trials import Trials

FORMS: Mapping[str, str] = {
    "2:4": "2:4",
    "int4": "int4 g128",
    "int4 2:4": "2:4 int4 g128",
    "int8_weight_only": "int8",
    "int8_weight_only 2:4": "2:4 int8",
    "unstructured 60%": "sparse",
    "unstructured 80%": "sparse",
}
"""Rungs, by name, and how kernels call such weights. What has no number format stays in the model's own, bfloat16 or float16."""


def ladder_of(trials: Trials) -> tuple[Rung, ...]:
    """What a search for a goal tries on the target. Raises UserError for a GPU without a kernel for any layer of the model."""
    from sparsecc.api.gpu_trials import GpuTrials

    if not isinstance(trials, GpuTrials):
        return ladder(trials.dtypes)
    found = tuple(Rung.parse(name) for name, form in FORMS.items() if trials.offers(form))
    if not found:
        raise UserError(
            f"{trials.name}: the kernels for {trials.target.name} take none of its layers; they take linear layers in bfloat16 or float16"
        )
    return (DENSE, *found)
