"""Caches of keys and values among what a transformers model takes and returns: torch.export has to know what tensors they hold."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from sparsecc.errors import InputError

_MODULE = "transformers.cache_utils"
_PLAIN = ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer")
_FIELDS = ["key_cache", "value_cache"]


def register() -> None:
    """Tell torch.export of the caches of transformers, where that is loaded.

    A DynamicCache is two lists of tensors, as in transformers' own registration, whose files stay readable; that one is replaced, since
    it makes a cache by calls that a trace would hold. A cache of other states is left out of what a model returns.
    """
    caches: Any = sys.modules.get(_MODULE)
    if caches is None:
        return
    for kind in (caches.DynamicCache, caches.EncoderDecoderCache, *_below(caches.Cache)):
        known = pytree.SUPPORTED_NODES.get(kind)
        if known is not None and known.flatten_fn in (_take_apart, _pair):
            continue
        if known is not None:
            pytree._deregister_pytree_node(kind)
        pair = kind is caches.EncoderDecoderCache
        pytree.register_pytree_node(
            kind,
            _pair if pair else _take_apart,
            (lambda parts, _, kind=kind: kind(*parts)) if pair else _put_together,
            flatten_with_keys_fn=_with_keys(_pair if pair else _take_apart),
            serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        )


def _below(kind: type) -> Iterator[type]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _pair(cache: Any) -> tuple[list[Any], Any]:
    return [cache.self_attention_cache, cache.cross_attention_cache], None


def _take_apart(cache: Any) -> tuple[list[Any], Any]:
    """The keys and the values of all layers, and the names of both with the window of each layer; nothing of a cache of other states."""
    if any(type(layer).__name__ not in _PLAIN for layer in cache.layers):
        return [], None
    held = ([state for layer in cache.layers if (state := getattr(layer, name)) is not None] for name in ("keys", "values"))
    return list(held), [_FIELDS, [getattr(layer, "sliding_window", None) for layer in cache.layers]]


def _put_together(parts: Any, context: Any) -> Any:
    caches: Any = sys.modules[_MODULE]
    if context is None:
        return None
    cache = caches.DynamicCache()
    cache.layers = [_layer(caches, *of) for of in itertools.zip_longest(*parts, context[1])]
    return cache


def _layer(caches: Any, keys: Tensor | None, values: Tensor | None, window: int | None) -> Any:
    """A layer that holds these states, made without an operator, which a trace would take for one of the model's."""
    with _disable_current_modes():
        layer = caches.DynamicLayer() if window is None else caches.DynamicSlidingWindowLayer(sliding_window=window)
    if keys is not None:
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        if window is not None:
            layer.cumulative_length = keys.shape[-2]
    return layer


def _with_keys(take_apart: Any) -> Any:
    def keyed(cache: Any) -> tuple[list[Any], Any]:
        parts, context = take_apart(cache)
        return [(pytree.MappingKey(name), part) for name, part in zip(_FIELDS, parts, strict=False)], context

    return keyed


def name_of(spec: pytree.TreeSpec) -> str | None:
    """The full name of the class of a cache; None for anything else."""
    kind: Any = spec.type
    known = pytree.SUPPORTED_NODES.get(kind)
    return f"{kind.__module__}.{kind.__qualname__}" if known is not None and known.flatten_fn in (_take_apart, _pair) else None


def windowed(spec: pytree.TreeSpec) -> bool:
    """Whether a DynamicCache keeps the last tokens only, which its tensors do not tell."""
    return spec.context is not None and any(size is not None for size in spec.context[1])


def check_inputs(inputs: Any) -> None:
    """Raises InputError for a cache whose states the model would not be given."""
    caches: Any = sys.modules.get(_MODULE)
    if caches is None:
        return
    for leaf in pytree.tree_leaves(inputs, is_leaf=lambda part: isinstance(part, caches.Cache) and not _of_two(part)):
        if isinstance(leaf, caches.Cache) and _take_apart(leaf)[1] is None:
            kind = type(leaf).__name__
            instead = "pass a DynamicCache, or wrap the model in a module that takes its tensors"
            raise InputError(f"an example input is a {kind}, which cannot be traced; {instead}")


def _of_two(cache: Any) -> bool:
    return hasattr(cache, "self_attention_cache")
