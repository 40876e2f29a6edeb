"""Attention processors that hand the product of attention on, and the step that a transformer is in."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparsecc.errors import InputError, UserError


def attention(transformer: nn.Module) -> dict[str, Any]:
    """The attention modules of a transformer by name, in its order. Raises UserError where there are none."""
    found = {name: module for name, module in transformer.named_modules() if hasattr(module, "get_processor") and hasattr(module, "heads")}
    if not found:
        raise UserError(f"{type(transformer).__name__} has no attention with a processor, as diffusers' transformers have")
    return found


def transformer_of(model: Any) -> nn.Module:
    """A pipeline's, or itself. Raises UserError for anything else, and for a pipeline with two."""
    if getattr(model, "transformer_2", None) is not None:
        two = f"{type(model).__name__} has two transformers, each for a part of the steps"
        raise UserError(f"{two}; give them one by one, as pipe.transformer and pipe.transformer_2, with steps=")
    found = getattr(model, "transformer", model)
    found = getattr(found, "_orig_mod", found)  # of torch.compile
    if not isinstance(found, nn.Module):
        raise UserError(f"{type(model).__name__} is neither a transformer of diffusers nor a pipeline with one")
    return found


def sizes(module: Any) -> tuple[int, int]:
    """heads, head_dim"""
    return module.heads, module.inner_dim // module.heads


class Call(NamedTuple):
    """One product of attention, q, k and v after norms and rotary embedding: [batch, heads, tokens, head_dim]."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    causal: bool
    scale: float


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """The arguments of `scaled_dot_product_attention`."""
    if dropout_p:
        raise InputError("attention with dropout is computed by no plan; set the model to eval()")
    return Call(query, key, value, attn_mask, is_causal, query.shape[-1] ** -0.5 if scale is None else scale)


class _Handing(TorchFunctionMode):
    """Hands attention products to `take`; torch computes those for which it gives None."""

    def __init__(self, take: Callable[[Call], Tensor | None]) -> None:
        super().__init__()
        self.take, self.seen = take, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.seen += 1
        taken = self.take(_call(*args, **kwargs))
        return func(*args, **kwargs) if taken is None else taken


OWN = "_sparsecc_own"  # of a processor that hands its product on: the one in whose place it stands


@functools.cache
def _handing(kind: type) -> type:
    """A kind of processor that hands its product on to its `take`."""

    @torch.compiler.disable  # which steps are dense is decided in each call
    @functools.wraps(kind.__call__)  # a model passes on the arguments that the signature names
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _Handing(self.take) as handing:
            result = kind.__call__(self, *args, **kwargs)
        if not handing.seen:
            raise UserError(f"{kind.__name__} does not call scaled_dot_product_attention, so that no plan can be played in its place")
        return result

    return type(f"Planned{kind.__name__}", (kind,), {"__call__": call})


def require_playable(modules: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises UserError for a processor in whose place none can stand."""
    for name in names:
        own = modules[name].get_processor()
        if isinstance(own, nn.Module):
            raise UserError(f"attention '{name}' has a processor with weights, {type(own).__name__}; unload it first")
        if getattr(own, "_parallel_config", None) is not None:
            raise UserError(f"attention '{name}' divides its tokens among devices, where no plan can be played")


def install(modules: Mapping[str, Any], takes: Mapping[str, Callable[[Call], Tensor | None]]) -> None:
    """Let each of these modules hand its product of attention to a function, which gives None to have it computed as before."""
    for name, take in takes.items():
        own = modules[name].get_processor()
        made = copy.copy(own)
        made.__class__ = _handing(type(own))
        made.take = take
        setattr(made, OWN, own)
        if hasattr(own, "_attention_backend"):
            made._attention_backend = AttentionBackendName.NATIVE
        modules[name].set_processor(made)


class Clock:
    """Which step a transformer is in. Steps are told apart by their timesteps, which fall within a run, or rise in all of them; a change
    against that begins another run."""

    def __init__(self, steps: Callable[[], int | None]) -> None:
        self.runs = self.index = self.count = 0
        self.watching = False
        self._steps, self._stop = steps, lambda: None
        self._last: float | None = None
        self._falls: bool | None = None  # known from the second step on

    def watch(self, transformer: nn.Module) -> None:
        names = inspect.signature(transformer.forward)
        if "timestep" not in names.parameters:
            raise UserError(f"{type(transformer).__name__} takes no timestep, so that its steps cannot be told apart")

        def noted(_: nn.Module, args: Any, kwargs: Any) -> None:
            self._note(float(torch.as_tensor(names.bind_partial(*args, **kwargs).arguments["timestep"]).max()))

        self._stop, self.watching = transformer.register_forward_pre_hook(noted, with_kwargs=True).remove, True

    def stop(self) -> None:
        self._stop()
        self.watching = False

    def _note(self, timestep: float) -> None:
        if self._last is None:
            self.runs, self.index = 1, 0
        elif timestep != self._last:
            falls = timestep < self._last
            self._falls = falls if self._falls is None else self._falls
            if falls == self._falls:
                self.index += 1
            else:
                self.runs, self.index = self.runs + 1, 0
        self._last, self.count = timestep, max(self.count, self.index + 1)

    @property
    def fraction(self) -> float:
        """Of the run's steps, how many are over. Raises UserError where nobody knows how many there are."""
        steps = self._steps()
        if steps is None:
            raise UserError("how many steps a run makes is not known; give steps= to apply")
        return min(self.index, steps - 1) / steps
