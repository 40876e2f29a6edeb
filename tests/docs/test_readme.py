"""The README is short, its commands and its example are real."""

from __future__ import annotations

import ast
import re
import shlex

import pytest

from sparsecc.autotune.goal import Goal
from sparsecc.recipe import Recipe
from tools.example import PAGES, PICTURE, code_of, command_of, picture_of, printed_by, shortened
from tools.reference import ROOT

README = PAGES[0].read_text()


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 130


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


def test_its_second_example_is_a_search_for_a_goal() -> None:
    program, command, *options = shlex.split(command_of(README))
    assert (program, command) == ("sparsecc", "tune") and {"--goal", "--calib", "--minutes", "--out"} <= set(options)
    assert Goal.parse(options[options.index("--goal") + 1])
    assert PICTURE.read_bytes().startswith(b"\x89PNG") and f"]({PICTURE.relative_to(ROOT)})" in README


def test_what_a_search_prints_is_shortened_to_what_none_beats() -> None:
    rows = [
        "  16.000 ms   1.00x    90.14 MB  cosine 1         as it came",
        "   8.000 ms   2.00x    40.14 MB  cosine 0.98         quantize{}",
        "   7.000 ms   2.20x    40.14 MB  cosine 0.99  front  quantize{targets=[a]}" + 200 * "x",
        "   6.000 ms   2.60x    40.14 MB  cosine 0.991  best   quantize{targets=[a,b]}",
    ]
    kept = shortened("\n".join(["cosine>=0.99: met", "stopped after 9 s: so", "rung a is not measured: late", *rows])).splitlines()
    assert kept[0] == "cosine>=0.99: met" and [line[:9] for line in kept[1:]] == ["  16.000 ", "   7.000 ", "   6.000 "]
    assert len(kept[2]) == 140 and kept[2].endswith("x ...")


def test_the_picture_is_that_of_the_page() -> None:
    assert picture_of('<img alt="a" src="data:image/png;base64,aGk=">') == b"hi"
    with pytest.raises(ValueError, match="the page has no picture"):
        picture_of("<html></html>")
