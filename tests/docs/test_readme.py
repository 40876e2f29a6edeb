"""The README is short, its commands and its example are real."""

from __future__ import annotations

import ast
import re

from sparsecc.recipe import Recipe
from tools.example import PAGES, code_of, printed_by
from tools.reference import ROOT

README = PAGES[0].read_text()


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 100


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_its_links_lead_somewhere() -> None:
    broken = [link for link in re.findall(r"\]\(([\w./-]+)", README) if not (ROOT / link).exists()]
    assert broken == []


def test_its_example_has_six_lines_and_a_recipe_that_is_one() -> None:
    statements = ast.parse(code_of(README)).body
    assert len(statements) == 6
    [recipe] = [node.value for node in statements if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "recipe"]
    assert len(Recipe.load(ast.literal_eval(recipe)).passes) == 2


def test_the_first_page_shows_the_same_example() -> None:
    first = PAGES[1].read_text()
    assert (code_of(first), printed_by(first)) == (code_of(README), printed_by(README))
    assert "check against the masked dense model" in printed_by(README)
