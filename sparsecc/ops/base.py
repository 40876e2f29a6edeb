"""What an operator of the vocabulary has to say, once, for every stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from sparsecc.forms import Form

ONNX_DOMAIN = "ai.sparsecc"
TORCH_NAMESPACE = "sparsecc"


class TorchCall(NamedTuple):
    """target: the torch operator.  options: its arguments after (x, the weight's tensors, bias)."""

    target: Any
    options: tuple[Any, ...]


@dataclass(frozen=True)
class SiteOp:
    """An operator with its weights, ready to stand in the place of a site (`Graph.replace`). Each narrows the type of `stored`."""

    stored: Form = field(repr=False)
    bias: Tensor | None = field(default=None, repr=False)

    def torch_call(self, name: str) -> TorchCall:
        """How a torch graph calls this operator at the site `name`."""
        raise NotImplementedError(f"{type(self).__name__} has no torch operator")
