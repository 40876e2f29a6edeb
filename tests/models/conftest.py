"""Models are built once per test run: reading and drawing weights is most of the time these tests take."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import models


@cache
def _build(name: str) -> Any:
    return models.load(name).build()


@pytest.fixture
def built(request: pytest.FixtureRequest) -> Any:
    """What build() gives for the test's `name` parameter."""
    return _build(request.getfixturevalue("name"))
