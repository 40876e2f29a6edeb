from __future__ import annotations

import json

from tests.report.example import REPORT
from tests.runtime import tiny


def test_a_model_and_what_a_recipe_would_do(call, model, recipe, tmp_path):
    code, text, errors = call("explain", model)
    assert (code, errors) == (0, [])
    assert "fc1  Linear 96×64" in text and "skipped: no zeros" in text
    code, text, _ = call("explain", model, "--recipe", recipe, "--json", tmp_path / "r.json")
    assert code == 0 and "sparse: packed in" in text
    assert len(json.loads((tmp_path / "r.json").read_text())["sites"]) == 2


def test_a_report(call, tmp_path):
    REPORT.to_json(tmp_path / "r.json")
    code, text, _ = call("explain", tmp_path / "r.json")
    assert code == 0 and all(site.reason in text for site in REPORT.sites)


def test_an_artifact(call, tmp_path):
    tiny.compiled().save(tmp_path / "m.sparsecc")
    code, text, _ = call("explain", tmp_path / "m.sparsecc")
    assert code == 0 and "fc  Linear 5×24" in text


def test_other_json_is_refused(call, tmp_path):
    (tmp_path / "r.json").write_text('{"a": 1}')
    code, _, [error] = call("explain", tmp_path / "r.json")
    assert code == 2 and "is no report of sparsecc" in error
