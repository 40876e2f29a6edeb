"""Why weights are no sites, in the words of reports: the same on both hosts."""

from __future__ import annotations

LOOKED_UP = "a table that is looked up; passes work on what is multiplied"
NO_OPERATOR = "{} have no sparse operator"
REASONS = {
    "Embedding": LOOKED_UP,
    "Conv2d": "its padding or bias depends on what the model leaves open",
    "Conv3d": NO_OPERATOR.format("3-D convolutions"),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), NO_OPERATOR.format("transposed convolutions")),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), NO_OPERATOR.format("recurrent layers")),
    "Einsum": "this einsum is no linear layer",
    "Linear": "its product is scaled, or its bias is computed",
    "BatchedMatMul": NO_OPERATOR.format("stacks of matrices (experts)"),
}


def reason_of(kind: str) -> str:
    """Of a weight that a layer or an operator of this kind reads."""
    return REASONS.get(kind, f"read by {kind}, which is no layer that passes know")


def narrow(dtype: str) -> str:
    """Of a weight whose numbers have fewer bits already."""
    return f"{dtype}, not floating point: it was quantized before"
