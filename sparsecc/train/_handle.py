"""What holds the masks of one model while it trains."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.optim import Optimizer

from sparsecc import registry
from sparsecc.errors import Refused, UserError
from sparsecc.graph.sites import WeightSite
from sparsecc.train._layers import MASKED, survey
from sparsecc.train._masked import Hard, Masked, Parametrized
from sparsecc.train.base import Method, Soft


@dataclass(frozen=True)
class LayerState:
    """sparsity: share of masked weights now, 0 for a layer that stays dense.  refused: why it does."""

    name: str
    kind: str
    shape: tuple[int, ...]
    pattern: str
    sparsity: float
    refused: Refused | None = None

    def __str__(self) -> str:
        what = f"dense: {self.refused.reason}" if self.refused else f"{self.pattern}, {self.sparsity:.1%} zeros"
        return f"{self.name}  {'x'.join(map(str, self.shape))}  {what}"


class Handle:
    """Lives as long as its optimizer, whoever lets go of it: the masks hang on the optimizer's steps. Both gone, the masks lie no more.

    step: how many steps the optimizer has done since masks were attached.  str() is a line for each layer."""

    def __init__(self, model: nn.Module, method: Method, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UserError(f"optimizer: a {type(optimizer).__name__} is no torch.optim.Optimizer; give the one that it wraps")
        self.step, self._method, self._optimizer = 0, method, optimizer
        self._generator = torch.Generator().manual_seed(method.seed)
        self._survey = survey(model, method, optimizer)
        taken = [(site, module) for site, module, reason in self._survey if reason is None]
        shares = self._shares([site for site, _ in taken])
        self._masked: dict[str, Masked] = {}
        try:
            for site, module in taken:
                self._masked[site.name] = self._mask(site, module, shares[site.name])
            first = [layer.site.from_matrix(method.first(layer.view(self._generator))) for layer in self._masked.values()]
        except BaseException:
            for layer in self._masked.values():
                layer.take_off()
            raise
        for layer, keep in zip(self._masked.values(), first, strict=True):
            layer.put(keep, optimizer)
        self._hooks = [optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)]
        MASKED.update({layer.module: weakref.ref(layer) for layer in self._masked.values()})

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """Every layer that the targets mean, those that stay dense with the reason."""
        return tuple(
            LayerState(
                name=site.name,
                kind=site.kind,
                shape=tuple(site.shape),
                pattern=self._method.pattern,
                sparsity=0.0 if reason else self._masked[site.name].zeros,
                refused=reason,
            )
            for site, _, reason in self._survey
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self.layers))

    def state_dict(self) -> dict[str, Any]:
        """Masks, step and random state; with those of the model and the optimizer, training goes on as if it had not stopped.
        As of torch's own it is no copy; its masks are not changed in place."""
        return {
            "method": registry.name_of(self._method),
            "step": self.step,
            "generator": self._generator.get_state(),
            "masks": {name: layer.keep for name, layer in self._masked.items()},
            "sparsities": {name: layer.sparsity for name, layer in self._masked.items()},  # allocated by the weights there were
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """After the model's and the optimizer's. Raises UserError for the state of another method or other layers."""
        if state["method"] != registry.name_of(self._method):
            raise UserError(f"this state is one of method {state['method']}, not of {registry.name_of(self._method)}")
        shapes = {name: tuple(keep.shape) for name, keep in state["masks"].items()}
        here = {name: tuple(layer.keep.shape) for name, layer in self._masked.items()}
        for name in sorted(shapes.keys() | here.keys()):
            if shapes.get(name) != here.get(name):
                raise UserError(f"layer '{name}': the state has {shapes.get(name, 'no mask')}, the model {here.get(name, 'no mask')}")
        self.step = state["step"]
        self._generator.set_state(state["generator"].cpu())
        for name, layer in self._masked.items():
            layer.sparsity = state["sparsities"][name]
            layer.restore(state["masks"][name].to(layer.weight.device))
            layer.after_step(self.step)

    def finish(self, *, early: bool = False) -> None:
        """The masks are applied for good, hooks and parametrizations are gone. A second time it does nothing.

        Raises UserError while masks are still on their way; early: take them there at once, which may cost accuracy.
        """
        if not self._hooks:
            return
        if not self._method.settled(self.step):
            if not early:
                raise UserError(
                    f"finish() after step {self.step}: masks change until step {self._method.last} of {self._method.steps}; "
                    "train on, or cut them to their sparsity at once with finish(early=True)"
                )
            self._change(self._method.last)
        for layer in self._masked.values():
            layer.after_step(max(self.step, self._method.last))
            layer.release()
            MASKED.pop(layer.module, None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _shares(self, sites: Sequence[WeightSite]) -> dict[str, float]:
        """The sparsity that each site is to have in the end, by name."""
        pruning = self._method.pruning
        return pruning.allocate(sites, lambda site: pruning.unit_scores(site, {}, self._method.seed))

    def _mask(self, site: WeightSite, module: nn.Module, sparsity: float) -> Masked:
        format = self._method.pruning.masks
        if isinstance(self._method, Soft):
            return Parametrized(site, module, format, sparsity, self._method)
        return Hard(site, module, format, sparsity, self._listening)

    def _listening(self) -> bool:
        return self._method.needs_gradient and self._method.changes_at(self.step + 1)

    def _before(self, *_: Any) -> None:
        for layer in self._masked.values():
            layer.before_step(self.step, self._scale)

    @property
    def _scale(self) -> float:
        """Of the gradients, under a GradScaler whose optimizer divides by it inside its step."""
        return float(getattr(self._optimizer, "grad_scale", None) or 1.0)

    @property
    def _left_out(self) -> bool:
        """Whether such an optimizer leaves this step out, since a gradient is infinite."""
        return bool(getattr(self._optimizer, "found_inf", None) or 0)

    def _after(self, *_: Any) -> None:
        if self._left_out:
            for layer in self._masked.values():
                layer.gradient = None
            return
        self.step += 1
        if self._method.changes_at(self.step):
            self._change(self.step)
        for layer in self._masked.values():
            layer.after_step(self.step)

    def _change(self, step: int) -> None:
        """In several processes every one sees the gradients of all, and comes to the same masks."""
        together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        for layer in self._masked.values():
            if self._method.needs_gradient and together:
                layer.gradient = torch.zeros_like(layer.weight) if layer.gradient is None else layer.gradient
                distributed.all_reduce(layer.gradient)
            layer.put(layer.site.from_matrix(self._method.change(layer.view(self._generator), step)), self._optimizer)
