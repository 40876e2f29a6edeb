"""Why an operator was not put into other words: noted in its metadata, for the error of a compiler that cannot take it. And which ones are
as the compiler wants them."""

from __future__ import annotations

import onnx

_KEY, _DONE = "ai.sparsecc.kept_whole", "ai.sparsecc.done"


def note(node: onnx.NodeProto, why: str) -> None:
    """The last reason stands."""
    known = next((entry for entry in node.metadata_props if entry.key == _KEY), None)
    if known is None:
        known = node.metadata_props.add(key=_KEY)
    known.value = why


def reason(node: onnx.NodeProto) -> str | None:
    return next((entry.value for entry in node.metadata_props if entry.key == _KEY), None)


def settle(node: onnx.NodeProto) -> None:
    """It stays as it is, and the compiler takes it."""
    node.metadata_props.add(key=_DONE)


def settled(node: onnx.NodeProto) -> bool:
    return any(entry.key == _DONE for entry in node.metadata_props)
