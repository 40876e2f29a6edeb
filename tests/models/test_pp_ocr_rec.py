from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models import pp_ocr_rec


@pytest.mark.parametrize("name", ["pp_ocr_rec"])
def test_real_weights_read_the_rendered_text(name: str, built: Path) -> None:
    session = onnxruntime.InferenceSession(built)
    read = [pp_ocr_rec.decode(np.asarray(session.run(None, sample)[0]))[0].strip() for sample in pp_ocr_rec.calibration(10)]
    right = sum(a == b for a, b in zip(read, pp_ocr_rec.texts(10), strict=True))
    assert right >= 8, read


def test_decode_merges_repeats_and_drops_blanks() -> None:
    alphabet = pp_ocr_rec._alphabet()
    a, b = alphabet.index("a"), alphabet.index("b")
    probabilities = np.eye(6625, dtype=np.float32)[[[a, a, 0, a, b, b, 0, 0]]]
    assert pp_ocr_rec.decode(probabilities) == ["aab"]


def test_preprocess_pads_short_lines_and_cuts_long_ones() -> None:
    for width in (100, 500):
        x = pp_ocr_rec.preprocess(np.ones((48, width, 3), np.float32))
        assert x.shape == (1, 3, 48, 320) and x.dtype == np.float32
        assert (x[..., :100] == 1).all()
        assert (x[..., 100:] == (0 if width == 100 else 1)).all()
