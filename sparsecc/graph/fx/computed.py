"""Weights that a torch module computes from other tensors: prune masks, weight norms, parametrizations. Read as plain ones, and written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sparsecc.errors import ModelError, Refused
from sparsecc.graph.fx.evaluating import evaluating

_Hook = BasePruningMethod | WeightNorm | SpectralNorm  # before each forward pass they set the weight, a plain attribute
_CLOSE = 1e-5  # of the largest magnitude: what a weight may be off that has gone through its own computation


def copied(model: nn.Module) -> nn.Module:
    """A copy with tensors of its own, also of modules that torch does not copy, since they hold what an operator made."""
    return deep_copy(model, {id(made): made.detach().clone() for made in _made(model)})


def deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """copy.deepcopy, but for what modules hold beside tensors and cannot be copied (a lock, an open file), which both then hold.

    Raises ModelError when that is not all that is in the way.
    """
    try:
        return copy.deepcopy(model, {**memo})
    except Exception:  # noqa: BLE001  whatever the modules' own attributes raise
        own = vars(nn.Module())
        attributes = [value for module in model.modules() for name, value in vars(module).items() if name not in own]
    try:
        return copy.deepcopy(model, {**memo, **{id(value): value for value in attributes if not _copies(value, memo)}})
    except Exception as error:
        raise ModelError(f"the model cannot be copied: {error}") from error


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    try:
        copy.deepcopy(value, {**memo})
    except Exception:  # noqa: BLE001
        return False
    return True


@torch.no_grad()
def plain(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares its tensors, in which every computed weight is a parameter by the name that it is read by."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = deep_copy(model, {**shared, **{id(made): made.detach() for made in _made(model)}})
    for module in twin.modules():
        module.training = False  # in training some weights change as they are read
    for module in list(twin.modules()):
        values = {name: _recomputed(module, name).clone() for name in computed(module)}
        _forget(module)
        for name, value in values.items():
            module.__dict__.pop(name, None)
            module.register_parameter(name, nn.Parameter(value, value.is_floating_point()))
    return twin


def computed(module: nn.Module) -> list[str]:
    """The names of the tensors that a module computes."""
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    return [*parametrized, *(name for hook in _hooks(module) if (name := _name(hook)) not in parametrized)]


@torch.no_grad()
def write(module: nn.Module, name: str, value: Tensor) -> Refused | None:
    """Let a module's tensor be this one, in place; a computed one by what it is computed from, its names as they are.

    Refused, and as it was, where it comes out as another one, or one of its zeros as another number.
    """
    if name not in computed(module):
        getattr(module, name).copy_(value)
        return None
    with _restored(module) as restore:
        for attempt in (_through_original, _through_inverse) if parametrize.is_parametrized(module, name) else (_through_hook,):
            try:
                attempt(module, name, value)
            except (RuntimeError, NotImplementedError, ValueError, AttributeError):  # what parametrizations raise that cannot be inverted
                restore()
                continue
            if _is(_recomputed(module, name), value):
                return None
            restore()
    return Refused(f"its weight is computed ({', '.join(_words(module, name))}), and zeros do not survive that; make it a plain one first")


def writable(module: nn.Module, name: str) -> Refused | None:
    """Whether `write` can put zeros into a tensor: tried on a copy."""
    if name not in computed(module):
        return None
    twin = copied(module).eval()
    value = getattr(twin, name).detach().clone(memory_format=torch.contiguous_format)
    value.view(-1)[::2] = 0
    return write(twin, name, value)


def _is(found: Tensor, wanted: Tensor) -> bool:
    close = _CLOSE if found.dtype == torch.float32 else 1e-2
    apart = (found.double() - wanted.double()).abs().max()
    return bool(apart <= close * wanted.double().abs().max()) and not bool(found[wanted == 0].any())


def _through_original(module: nn.Module, name: str, value: Tensor) -> None:
    """What a mask multiplies. Also right where the parametrization is not the identity but leaves this value as it is."""
    original = module.parametrizations[name].original  # type: ignore[index, union-attr]
    original.copy_(value)


def _through_inverse(module: nn.Module, name: str, value: Tensor) -> None:
    """By the parametrization's own `right_inverse`. Rows of zeros have no direction for a weight norm: they keep theirs, at length zero."""
    chain: Any = module.parametrizations[name]  # type: ignore[index]
    norm = len(chain) == 1 and type(chain[0]).__name__ == "_WeightNorm"
    empty = (value == 0).flatten(1).all(1) if norm and chain[0].dim == 0 else torch.zeros(len(value), dtype=torch.bool)
    before = getattr(module, name).detach()
    parts = value.clone()
    parts[empty] = before[empty]
    for step in reversed(chain):
        parts = step.right_inverse(parts)
    if chain.is_tensor:
        chain.original.copy_(parts)
        return
    for number, part in enumerate(parts):
        getattr(chain, f"original{number}").copy_(part)
    if empty.any():
        chain.original0[empty] = 0


def _through_hook(module: nn.Module, name: str, value: Tensor) -> None:
    hook = next(hook for hook in _hooks(module) if _name(hook) == name)
    if isinstance(hook, WeightNorm):
        length, direction = getattr(module, f"{name}_g"), getattr(module, f"{name}_v")
        length.copy_(torch.norm_except_dim(value, 2, hook.dim))
        direction.copy_(torch.where(length > 0, value, direction))
    elif isinstance(hook, BasePruningMethod):
        original, mask = getattr(module, f"{name}_orig"), getattr(module, f"{name}_mask")
        mask.copy_(value != 0)
        original.copy_(torch.where(value != 0, value, original))
    else:
        getattr(module, f"{name}_orig").copy_(value)


def _recomputed(module: nn.Module, name: str) -> Tensor:
    for hook in _hooks(module):
        hook(module, ())
    return getattr(module, name).detach()


@contextmanager
def _restored(module: nn.Module) -> Iterator[Callable[[], None]]:
    """In eval mode; what is called puts all tensors back."""
    before = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    buffers = [(part, dict(part._buffers)) for part in module.modules()]

    def restore() -> None:
        for part, held in buffers:
            part._buffers.update(held)  # an inverse may have put others there
        for tensor, value in before:
            tensor.copy_(value)
        for hook in _hooks(module):
            hook(module, ())

    with evaluating(module):
        yield restore


def _forget(module: nn.Module) -> None:
    """Without what computes its tensors."""
    if parametrize.is_parametrized(module):
        del module._modules["parametrizations"]
        module.__class__ = type(module).__mro__[1]  # torch has put a class with properties before the module's own
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, _Hook):
            del module._forward_pre_hooks[key]
            for part in (f"{_name(hook)}_{end}" for end in ("orig", "mask", "g", "v", "u")):
                module._parameters.pop(part, None)
                module._buffers.pop(part, None)


def _hooks(module: nn.Module) -> list[_Hook]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _Hook)]


def _name(hook: _Hook) -> str:
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name


def _words(module: nn.Module, name: str) -> list[str]:
    parts = module.parametrizations[name] if parametrize.is_parametrized(module, name) else _hooks(module)  # type: ignore[index]
    return [type(part).__name__.lstrip("_") for part in parts]


def _made(model: nn.Module) -> list[Tensor]:
    """Tensors that are plain attributes: what an operator made cannot be copied by torch."""
    return [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor) and not value.is_leaf]
