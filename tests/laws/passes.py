"""What the laws of passes are tried on: each pass's examples, a case for each member that a pass can name, and options that matter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sparsecc import allocations, attention, criteria, refinements, registry
from sparsecc.criteria.base import OF_GRADIENTS
from sparsecc.passes.base import Example, Pass
from sparsecc.recipe import Recipe
from tests.laws.members import examples

TRANSFORMER = ("transformer",)
TWO_KINDS = ("transformer", "convolutions")
TOKENS = {"grid": [1, 3, 3], "text_tokens": 1, "density": 0.8, "block": 3}  # of the transformer's sequence

OPTIONS: dict[str, tuple[Example, ...]] = {  # beside the examples
    "prune": (
        Example({"sparsity": 0.8}),
        Example({"pattern": "2:4", "criterion": "random"}),
        Example({"pattern": "1x4", "sparsity": 0.6, "allocation": "global", "targets": ["Linear"]}),
        Example({"compare": "output", "allocation": "erk", "sparsity": 0.8}),
        Example({"criterion": "sparsegpt", "compare": "output", "pattern": "4x1", "sparsity": 0.7}, TWO_KINDS),
        Example({"pattern": "4x1", "budget": {"bytes": "9 kB"}, "targets": ["Linear"]}, TRANSFORMER),
        Example({"criterion": "sparsegpt", "pattern": "2:4"}, TWO_KINDS),
        Example({"criterion": "alps", "pattern": "2:4", "variations": 2}, TRANSFORMER),
        Example({"refinement": "dsnot", "pattern": "2:4"}, TWO_KINDS),
        Example({"criterion": "fisher", "refinement": "dsnot", "sparsity": 0.8}, TRANSFORMER, torch_only=True),
        Example({"criterion": "fisher", "pattern": "4x1", "sparsity": 0.7, "allocation": "global"}, torch_only=True),
        Example({"criterion": "obs", "pattern": "2:4"}, TRANSFORMER, torch_only=True),
        Example({"criterion": "wanda", "rows": "fisher", "sparsity": 0.7}, TRANSFORMER, torch_only=True),
    ),
    "permute": (
        Example({"pattern": "16x1", "ignore": ["re:.*head.*"]}, TRANSFORMER),
        Example({"pattern": "2:4", "inputs": True}, TRANSFORMER),
    ),
    "pack": (Example({"formats": ["csr"], "ignore": ["re:.*head.*"]}),),
    "quantize": (
        Example({"activations": "calibrated", "ignore": ["re:.*head.*"]}, TRANSFORMER),
        Example({"dtype": "bfloat16", "min_weights": 0}),
        Example({"dtype": "int4", "group": 64, "symmetric": False, "method": "gptq"}, TRANSFORMER),
        Example({"dtype": "int8_weight_only", "group": 32, "targets": ["Linear"]}, TRANSFORMER),
    ),
    "reorder_tokens": (
        Example({"pattern": "sliding_window:2", "block": 3}, TRANSFORMER),
        Example({"pattern": "block_topk:refresh=2", "text_tokens": 1, "density": 0.8, "block": 3}, TRANSFORMER, torch_only=True),
        Example({**TOKENS, "allocation": "sensitivity"}, TRANSFORMER),
    ),
    "structured": (
        Example({"neurons": 0.6, "criterion": "contribution", "round_to": 16}, TRANSFORMER),
        Example({"neurons": 0.25, "heads": 0.25, "criterion": "obs", "dead": 0.01}, TRANSFORMER),
    ),
    "substitute": (Example({}, TRANSFORMER), Example({"structure": "low_rank"}, TRANSFORMER)),
}


def _named() -> Iterator[tuple[str, Example]]:
    """A case for each member of a family that a field of a pass names, so that a new file is under the laws of passes, too."""
    for name in registry.members("criteria"):
        gradients = bool(OF_GRADIENTS & {*criteria.create(name).needs})
        yield "prune", Example({"criterion": name, "pattern": "4x1", "sparsity": 0.7}, TWO_KINDS, gradients)
    for name in registry.members("refinements"):
        gradients = bool(OF_GRADIENTS & {*refinements.create(name).needs})
        yield "prune", Example({"criterion": "wanda", "refinement": name, "sparsity": 0.8}, TWO_KINDS, gradients)
    for name in registry.members("allocations"):
        options = {"criterion": "wanda", "allocation": name, "sparsity": 0.6, "targets": ["Linear"]}
        yield "prune", Example(options, TRANSFORMER, settles=allocations.create(name).settles)
    for name in registry.members("structures"):
        yield "substitute", Example({"structure": name, "params": 0.9, "max_error": 1.0}, TRANSFORMER)
    for name in registry.members("precisions"):
        yield "quantize", Example({"dtype": name}, TRANSFORMER)
    for name in registry.members("attention"):
        yield "reorder_tokens", Example({**TOKENS, "pattern": name}, TRANSFORMER, torch_only=attention.create(name).dynamic)


@dataclass(frozen=True, eq=False)
class Case:
    """One entry, on every host that can run it. name: a recipe of one line, so that two spellings of one pass are one case."""

    name: str
    step: Pass
    on: tuple[str, ...]
    torch_only: bool
    settles: bool

    def runs_on(self, host: str) -> bool:
        return host == "fx" or not self.torch_only


def _cases(given: Iterable[tuple[str, Example]]) -> list[Case]:
    found: dict[str, Case] = {}
    for name, example in given:
        recipe = Recipe.load({"passes": [{name: dict(example.options)}]})
        found.setdefault(recipe.to_text(), Case(recipe.to_text(), recipe.passes[0], example.on, example.torch_only, example.settles))
    return list(found.values())


EXAMPLES = _cases(examples("passes"))
CASES = _cases([*examples("passes"), *((name, example) for name, more in OPTIONS.items() for example in more), *_named()])
"""Each has to be pure, twice = once, deterministic, to do something where it says so, and to say why it leaves a layer alone."""

RECIPES = {
    "csr": [{"prune": {"sparsity": 0.8}}, "pack"],
    "block": [{"prune": {"pattern": "4x1", "sparsity": 0.7, "allocation": "global"}}, "pack"],
    "wide": [{"prune": {"pattern": "1x4", "sparsity": 0.6}}, "pack"],
    "nm": [{"prune": {"pattern": "2:4"}}, "pack"],
    "random": [{"prune": {"criterion": "random", "pattern": "16x1", "sparsity": 0.75, "allocation": "erk"}}, "pack"],
    "mixed": [{"prune": {"ignore": ["head"], "sparsity": 0.8}}, {"prune": {"targets": ["head"], "pattern": "1:4"}}, "pack"],
}
