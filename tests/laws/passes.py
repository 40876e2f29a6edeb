"""The passes that the laws run over, with the options that matter: at least one entry for every file in `passes/`."""

from __future__ import annotations

from sparsecc.passes.base import Pass
from sparsecc.passes.pack import Pack
from sparsecc.passes.permute import Permute
from sparsecc.passes.prune import Prune
from sparsecc.passes.quantize import Quantize
from sparsecc.passes.recover import Recover
from sparsecc.passes.reorder_tokens import ReorderTokens
from sparsecc.passes.structured import Structured
from sparsecc.passes.substitute import Substitute

PASSES: dict[str, tuple[Pass, ...]] = {
    "prune": (
        Prune(pattern="unstructured", sparsity=0.8),
        Prune(pattern="4x1", sparsity=0.7, allocation="erk"),
        Prune(pattern="2:4", criterion="random"),
        Prune(pattern="1x4", sparsity=0.6, allocation="global", targets=("Linear",)),
        Prune(criterion="wanda", sparsity=0.8),
        Prune(criterion="magnitude", compare="output", allocation="erk", sparsity=0.8),
        Prune(criterion="sparsegpt", compare="output", pattern="4x1", sparsity=0.7),
        Prune(criterion="wanda", sparsity=0.6, allocation="sensitivity", targets=("Linear",)),
        Prune(pattern="4x1", budget={"bytes": "9 kB"}, targets=("Linear",)),
        Prune(criterion="sparsegpt", pattern="4x1", sparsity=0.7),
        Prune(criterion="sparsegpt", pattern="2:4"),
        Prune(criterion="alps", pattern="4x1", sparsity=0.7),
        Prune(criterion="alps", pattern="2:4", variations=2),
        Prune(criterion="spectral", pattern="1x4", sparsity=0.7),
        Prune(criterion="wanda", refinement="dsnot", sparsity=0.8),
        Prune(criterion="magnitude", refinement="dsnot", pattern="2:4"),
    ),
    "recover": (Recover(),),
    "permute": (Permute(), Permute(pattern="16x1", ignore=("re:.*head.*",)), Permute(pattern="2:4", inputs=True)),
    "pack": (Pack(), Pack(formats=("csr",), ignore=("re:.*head.*",))),
    "quantize": (Quantize(), Quantize(activations="calibrated", ignore=("re:.*head.*",)), Quantize(dtype="bfloat16", min_weights=0)),
    "reorder_tokens": (
        ReorderTokens(grid=(1, 3, 3), text_tokens=1, density=0.8, block=3),
        ReorderTokens(pattern="sliding_window:2", block=3),
        ReorderTokens(grid=(3, 3, 5)),
    ),
    "structured": (
        Structured(),
        Structured(neurons=0.3, heads=0.5),
        Structured(neurons=0.6, criterion="contribution", round_to=16),
        Structured(neurons=0.25, heads=0.25, criterion="obs", dead=0.01),
    ),
    "substitute": (
        Substitute(),
        Substitute(structure="monarch", params=0.3, max_error=0.9),
        Substitute(structure="low_rank"),
        Substitute(structure="armor", params=0.9),
    ),
}
"""Each has to be pure, twice = once, deterministic, and to say why it leaves a layer alone."""

NEED_GRADIENTS: dict[str, tuple[Pass, ...]] = {
    "prune": (
        Prune(criterion="fisher", pattern="4x1", sparsity=0.7, allocation="global"),
        Prune(criterion="fisher", refinement="dsnot", sparsity=0.8),
        Prune(criterion="obs", sparsity=0.8),
        Prune(criterion="obs", pattern="2:4"),
        Prune(criterion="chita", pattern="4x1", sparsity=0.7),
        Prune(criterion="alps", rows="fisher", allocation="sensitivity", sparsity=0.7, targets=("Linear",)),
    ),
}
"""The same, for hosts that have gradients."""

RECIPES = {
    "csr": [{"prune": {"sparsity": 0.8}}, "pack"],
    "block": [{"prune": {"pattern": "4x1", "sparsity": 0.7, "allocation": "global"}}, "pack"],
    "wide": [{"prune": {"pattern": "1x4", "sparsity": 0.6}}, "pack"],
    "nm": [{"prune": {"pattern": "2:4"}}, "pack"],
    "random": [{"prune": {"criterion": "random", "pattern": "16x1", "sparsity": 0.75, "allocation": "erk"}}, "pack"],
    "mixed": [{"prune": {"ignore": ["head"], "sparsity": 0.8}}, {"prune": {"targets": ["head"], "pattern": "1:4"}}, "pack"],
}
