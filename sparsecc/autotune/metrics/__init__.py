"""Metrics: how near a changed model's answers are to the dense model's, or how good they are. Members: agreement, cer, cosine, nearest,
perplexity, spearman."""

from __future__ import annotations

from sparsecc import registry
from sparsecc.autotune.metrics.base import Metric

FAMILY = "autotune.metrics"


def names() -> list[str]:
    return registry.members(FAMILY)


def load(name: str) -> type[Metric]:
    """The class of that name. Raises RecipeError with the nearest valid name when there is none."""
    return registry.load_class(FAMILY, name, Metric)


def create(name: str) -> Metric:
    """The metric of that name. Raises RecipeError with the nearest valid name when there is none."""
    return load(name)()


def ratio_key(name: str) -> str:
    """What the value of a metric in parts of the dense model's is called among measured values."""
    return f"{name}_ratio"
