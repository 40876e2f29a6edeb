"""torch's own transformer layers, which take other ways in a trace than outside of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import transformer


@contextlib.contextmanager
def traceable(module: nn.Module) -> Iterator[None]:
    """While a model is traced, encoders that would leave padded tokens out give zeros for them, and masks are not looked at to see
    whether they are causal, which no trace can know; they are added either way.

    torch leaves tokens out only where all padding is at the end; a model that is given other padding has other values at padded tokens.
    """
    encoders = [part for part in module.modules() if isinstance(part, nn.TransformerEncoder) and len(part.layers)]
    last = [encoder.layers[-1] for encoder in encoders if encoder.use_nested_tensor]
    handles = [layer.register_forward_hook(_zero, with_kwargs=True) for layer in last]
    detect = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect
        for handle in handles:
            handle.remove()


def _zero(_: nn.Module, __: tuple[Any, ...], given: dict[str, Any], output: Tensor) -> Tensor:
    padding = given.get("src_key_padding_mask")
    if padding is None or given.get("src_mask") is not None:
        return output
    return output.masked_fill((padding if padding.dtype == torch.bool else padding < 0).unsqueeze(-1), 0)
