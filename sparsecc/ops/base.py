"""What an operator of the vocabulary has to say, once, for every stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.formats.base import Packed

ONNX_DOMAIN = "ai.sparsecc"
TORCH_NAMESPACE = "sparsecc"


@dataclass(frozen=True)
class SiteOp:
    """An operator with its weights, ready to stand in the place of a site (`Graph.replace`)."""

    packed: Packed = field(repr=False)
    bias: Tensor | None = field(default=None, repr=False)
