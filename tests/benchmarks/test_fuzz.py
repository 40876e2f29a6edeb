from __future__ import annotations

import ctypes
import os
import random
import sys
import time

import pytest

from benchmarks import fuzz, fuzz_seeds
from sparsecc.errors import InputError


def raises(error):
    def read(path):
        raise error

    return read


def spins(path):
    while True:
        pass


def takes_memory(path):
    bytearray(1 << 40)


@pytest.mark.parametrize(
    ("read", "how"),
    [
        (lambda path: None, None),
        (raises(InputError("x is 3-D")), None),
        (raises(InputError("")), "UserError without words"),
        (raises(KeyError("x")), "KeyError at "),
        (lambda path: ctypes.string_at(0), "SIGSEGV"),
        (lambda path: os.abort(), "SIGABRT"),
        (takes_memory, "MemoryError at "),
        (spins, "hang"),
    ],
)
def test_what_is_a_finding(tmp_path, monkeypatch, read, how):
    monkeypatch.setitem(fuzz_seeds.READERS, "npz", read)
    monkeypatch.setattr(fuzz, "LIMIT_S", 1)
    finding = fuzz.attempt("npz", b"content", tmp_path)
    assert (finding is None) == (how is None)
    if finding is not None:
        assert finding.how.startswith(how) and finding.content == b"content"


@pytest.mark.parametrize("kind", ["recipe", "npz", "onnx", "report"])
def test_tries_are_many_and_the_same_for_the_same_seed(kind):
    def some():
        source = fuzz.tries(kind, random.Random(3))
        return [next(source) for _ in range(60)]

    assert some() == some()
    assert len({*some()}) > 30
    assert not {*some()} <= {*fuzz_seeds.SEEDS[kind]()}


@pytest.mark.parametrize("kind", ["recipe", "npz", "report"])
def test_seeds_are_whole(tmp_path, kind):
    for number, seed in enumerate(fuzz_seeds.SEEDS[kind]()):
        path = tmp_path / f"{number}{fuzz_seeds.SUFFIXES[kind]}"
        path.write_bytes(seed)
        fuzz_seeds.READERS[kind](path)


def test_it_ends_when_it_should(monkeypatch):
    monkeypatch.setitem(fuzz_seeds.READERS, "recipe", lambda path: None)
    begun = time.monotonic()
    counts, findings = fuzz.fuzz(["recipe"], 0.2, 0)
    assert counts["recipe"] > 0 and not findings
    assert time.monotonic() - begun < 30


def test_a_kind_that_there_is_not(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--kinds", "recipe,typo"])
    with pytest.raises(SystemExit, match="2"):
        fuzz.main()
    assert "argument --kinds: 'typo' is none of onnx, recipe" in capsys.readouterr().err
