from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass

import pytest

from sparsecc.runtime.outputs import Record, rebuild

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Output:
    logits: object
    cache: object = None


def leaf(index):
    return {"kind": "leaf", "index": index}


def test_flat_outputs():
    assert rebuild(None, ["a"]) == "a"
    assert rebuild(None, ["a", "b"]) == ("a", "b")


def test_nesting_survives_json():
    structure = {
        "kind": "dict",
        "items": {"x": {"kind": "tuple", "items": [leaf(1), {"kind": "list", "items": [leaf(0)]}]}, "y": {"kind": "none"}},
    }
    assert rebuild(json.loads(json.dumps(structure)), ["a", "b"]) == {"x": ("b", ["a"]), "y": None}


def test_a_dataclass_is_rebuilt_where_its_module_is_loaded():
    structure = {"kind": "dataclass", "class": f"{__name__}.Output", "items": {"logits": leaf(0), "cache": {"kind": "none"}}}
    assert rebuild(structure, ["a"]) == Output("a")


def test_elsewhere_a_record_stands_in():
    record = rebuild({"kind": "dataclass", "class": "not.loaded.Output", "items": {"logits": leaf(0)}}, ["a"])
    assert isinstance(record, Record)
    assert record.logits == record["logits"] == record[0] == "a"
    with pytest.raises(AttributeError):
        record.missing  # noqa: B018


def pair(name):
    return {"kind": "namedtuple", "class": name, "items": {"left": leaf(1), "right": {"kind": "none"}}}


def test_a_namedtuple_is_a_tuple_everywhere():
    own = rebuild(pair(f"{__name__}.Pair"), ["a", "b"])
    assert type(own) is Pair and own == ("b", None)
    other, again = (rebuild(pair("not.loaded.Pair"), ["a", "b"]) for _ in range(2))
    assert type(other) is type(again) and type(other).__name__ == "Pair"
    assert other == ("b", None) and other.left == "b" and (lambda left, right: left)(*other) == "b"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="tree"):
        rebuild({"kind": "tree"}, [])
