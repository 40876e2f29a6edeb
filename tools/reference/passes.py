"""docs/reference/recipe.md: every pass with its fields, from `sparsecc/passes/`."""

from __future__ import annotations

import inspect

from sparsecc import recipe, registry
from sparsecc.passes.base import Pass
from sparsecc.recipe_text import write_text
from tools.reference.docstrings import described_class
from tools.reference.fields import field_table, names_of

GUIDES = {  # pages under docs/how-to that show a pass at work
    "pack": "pack",
    "permute": "recover",
    "prune": "prune",
    "quantize": "quantize",
    "recover": "recover",
    "reorder_tokens": "video-attention",
    "structured": "smaller-dense",
    "substitute": "substitute",
}

_INTRODUCTION = """# Recipe reference

A recipe is a list of passes, which run in order. Each entry names one pass and sets some of its fields; every other field has the default
given here. [Write a recipe](../how-to/recipes.md) explains targets, files and errors.

```yaml
{example}
```

In Python a recipe is the same structure as a dict, the path of a YAML file, or a `sparsecc.Recipe`. Without a recipe the passes are
`[pack]`: zeros that are in the model already are recognized and stored sparse.
"""


def page() -> str:
    example = inspect.cleandoc(recipe.__doc__ or "").split("\n\n")[1]
    return "\n".join([_INTRODUCTION.format(example=example), *map(section, registry.members("passes"))])


def section(name: str) -> str:
    """One pass: what it does, before → after, its fields."""
    cls = registry.load_class("passes", name, Pass)
    told = described_class(cls, names_of(cls))
    parts = [f"## {name}", *told.text, field_table(cls, told)]
    parts.append(f"For example {' or '.join(f'`{write_text([{name: dict(example.options)}])}`' for example in cls.examples)}.")
    if name in GUIDES:
        parts.append(f"Guide: [how-to/{GUIDES[name]}](../how-to/{GUIDES[name]}.md)")
    return "\n\n".join(parts) + "\n"
