"""What the OCR benchmark counts, and what it promises."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import ocr
from models import pp_ocr_rec
from models._lines import drawn
from sparsecc.graph.onnx.graph import OnnxGraph
from sparsecc.recipe import Recipe


def test_figures_count_edits_over_all_characters() -> None:
    """A line that says something else than what it is said to say: 'Hello' for 'Help!'."""
    right, wrong = (drawn(text, pp_ocr_rec.HEIGHT, pp_ocr_rec.WIDTH, seed=(0, 0)) for text in ("sentences", "Hello"))
    wrong = type(wrong)("Help!", wrong.image)
    found = ocr.figures(OnnxGraph.from_file(pp_ocr_rec.build()), [right, wrong])
    assert found == {"wrong characters": pytest.approx(2 / 14), "right lines": 0.5}


def test_batches_hold_every_line_once() -> None:
    drawings = [drawn("abcdef", pp_ocr_rec.HEIGHT, pp_ocr_rec.WIDTH, seed=(i,)) for i in range(6)]
    assert [batch.shape for batch in ocr.batches(drawings)] == [(4, 3, 48, 320), (2, 3, 48, 320)]


def test_promises_stand_at_what_is_recovered() -> None:
    promised = {row.name: row.within for row in ocr.EVALUATION.rows if row.within is not None}
    assert promised == {"unstructured 50% by sparsegpt, reconstruction": 0.01, "2:4 by sparsegpt, reconstruction": 0.02}
    for row in ocr.EVALUATION.rows:
        Recipe.load({"passes": row.passes(steps=0, scope={})})
