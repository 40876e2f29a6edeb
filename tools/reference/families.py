"""docs/reference/families.md: every member of every family that a recipe can name, from the files of its folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import sparsecc
from sparsecc import registry
from tools.reference.docstrings import Described, cell, described, described_class, sentence, table
from tools.reference.fields import field_table, names_of

_MARK = "One member of the family"  # how the docstring of a family's base class begins
NAMED_BY = {
    "allocations": "`prune: {allocation: NAME}`",
    "attention": "`reorder_tokens: {pattern: NAME}`",
    "autotune.metrics": "a goal, as `NAME>=0.99`",
    "criteria": "`prune: {criterion: NAME}`",
    "formats": "`pack: {formats: [NAME]}`",
    "patterns": "what it reads, `prune: {pattern: 4x1}`",
    "precisions": "`quantize: {dtype: NAME}`",
    "refinements": "`prune: {refinement: NAME}`",
    "structures": "`substitute: {structure: NAME}`",
    "train": "`sparsecc.train.attach(model, {method: NAME, ...}, optimizer=...)`",
}
_STORED = ("tensor_names", "index_names", "scale_names")  # attributes that name what a member stores
OPTIONS = ("train",)  # families whose fields a user sets
# What a class says about itself by its attributes → the sentence, None where there is nothing to say.
_FACTS: dict[str, Callable[[Any], str | None]] = {
    "needs": lambda needs: _calibration(needs) if needs else "Needs no calibration.",
    "updates": lambda updates: "Gives the kept weights new values." if updates else "Leaves the kept weights as they are.",
    "compares": lambda compares: f"Ranks the weights of each {compares} together, unless `compare` says otherwise.",
    "better": lambda better: f"Is better when {better}.",
    "of_one_model": lambda own: "The dense model has a value of its own, so that a goal may be relative to it: `<=1.02x`." if own else None,
    "needs_loss": lambda needed: "Needs calibration: it measures how each layer's error grows." if needed else None,
}


def names() -> list[str]:
    """Packages of sparsecc that are families: their `base` has a class whose docstring says so. A family may lie in another package."""
    packages = [module.name for module in pkgutil.iter_modules(sparsecc.__path__) if module.ispkg]
    inside = [name for name in NAMED_BY if "." in name]
    return sorted(name for name in [*packages, *inside] if base_of(name) is not None)


def base_of(family: str) -> type | None:
    """The class that members of a family derive from."""
    try:
        module = importlib.import_module(f"sparsecc.{family}.base")
    except ModuleNotFoundError:
        return None
    classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    return next((cls for cls in classes if (cls.__doc__ or "").startswith(_MARK)), None)


def page() -> str:
    head = """# Families

A family is a folder of `sparsecc/`, each of its files is a member, and the file's name is the member's name in a recipe. This page
lists all members.
"""
    return "\n".join([head, *map(_section, names())])


def _section(family: str) -> str:
    package = importlib.import_module(f"sparsecc.{family}")
    about = described(package.__doc__).first.split(" Members:")[0]
    parts = [f"## {family}", about]
    if family in NAMED_BY:
        parts.append(f"A member is named by {NAMED_BY[family]}.")
    base = base_of(family)
    assert base is not None
    if family in OPTIONS:
        told = described_class(base, names_of(base))
        parts += ["Fields of all members:", field_table(base, told)]
    parts += [_member(family, name, base) for name in registry.members(family)]
    return "\n\n".join(parts) + "\n"


def _member(family: str, name: str, base: type) -> str:
    cls = registry.load_class(family, name, base)
    fields = names_of(cls) if hasattr(cls, "__dataclass_fields__") else []
    own = described_class(cls, [*fields, *_tensors(cls)])
    about = described(registry.load(family, name).__doc__)
    facts = [fact for attribute, say in _FACTS.items() if hasattr(cls, attribute) and (fact := say(getattr(cls, attribute)))]
    parts = [f"### {family}: {name}", sentence(about.first), *own.text]
    if tensors := {key: meaning for key, meaning in own.fields.items() if key not in fields}:
        parts.append(table(["tensor", "is"], ([f"`{key}`", cell(sentence(meaning))] for key, meaning in tensors.items())))
    if facts:
        parts.append(" ".join(facts))
    if family in OPTIONS:
        parts += _own_options(cls, base, own)
    if shown := [
        _example(family, "" if family == "patterns" else name, example) for example in getattr(cls, "examples", ()) if example != {}
    ]:
        parts.append(f"Examples: {', '.join(shown)}.")
    return "\n\n".join(parts)


def _example(family: str, name: str, example: str | Mapping[str, Any]) -> str:
    """As a recipe writes it, of a member whose parameters are in its key, or of one with options."""
    if isinstance(example, str):
        return f"`{':'.join(filter(None, (name, example)))}`"
    options = ", ".join(f"{key}: {value}" for key, value in example.items())
    return f"`{{method: {name}, {options}}}`" if family in OPTIONS else f"`{{{options}}}`"


def _tensors(cls: type) -> list[str]:
    """What a member stores, by its own word."""
    return [name for names in _STORED if isinstance(getattr(cls, names, None), tuple) for name in getattr(cls, names)]


def _own_options(cls: type, base: type, told: Described) -> list[str]:
    """The fields that a member adds to those of its family, or gives another default."""
    common = {name: getattr(base, name, None) for name in names_of(base)}
    only = [name for name in names_of(cls) if name not in common or getattr(cls, name, None) != common[name]]
    return [field_table(cls, told, only)] if only else []


def _calibration(needs: tuple[str, ...]) -> str:
    torch_only = ", and works on torch models only" if "gradients" in needs else ""
    return f"Needs calibration ({', '.join(f'`{need}`' for need in needs)}){torch_only}."
