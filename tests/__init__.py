"""Tests of sparsecc: the folders are those of the package."""

from pathlib import Path

ROOT = Path(__file__).parents[1]  # the repository: from here a child imports `tests`
