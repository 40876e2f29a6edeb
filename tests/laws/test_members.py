from __future__ import annotations

from sparsecc import registry
from tests.laws.members import FORMATS, KEYS, PATTERNS, PRECISIONS, TRAINING
from tests.laws.passes import PASSES


def test_every_format_is_under_the_laws() -> None:
    assert sorted({registry.name_of(format) for format in FORMATS}) == registry.members("formats")


def test_every_pattern_is_under_the_laws() -> None:
    assert sorted({registry.name_of(pattern) for pattern in PATTERNS}) == registry.members("patterns")


def test_every_structure_is_under_the_laws() -> None:
    assert sorted(KEYS) == registry.members("structures")


def test_every_precision_is_under_the_laws() -> None:
    assert sorted(PRECISIONS) == registry.members("precisions")


def test_every_pass_is_under_the_laws() -> None:
    assert sorted(PASSES) == registry.members("passes")


def test_every_method_of_training_is_under_the_laws() -> None:
    assert sorted(TRAINING) == registry.members("train")
