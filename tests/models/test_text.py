from __future__ import annotations

import torch

from models._text import CHARACTERS, corpus, decode, encode, windows


def test_text_comes_back() -> None:
    assert decode(encode("A line,\nand another: x = {1}.")) == "A line,\nand another: x = {1}."
    assert decode(encode("naïve\t")) == "na?ve?"
    assert len(set(CHARACTERS)) == len(CHARACTERS) == 96


def test_no_paragraph_is_on_both_sides() -> None:
    mine, others = (decode(corpus(held_out)).split("\n") for held_out in (False, True))
    assert not set(mine) & set(others)
    assert 0.05 < len(others) / (len(mine) + len(others)) < 0.15


def test_windows_follow_each_other() -> None:
    assert windows(torch.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
