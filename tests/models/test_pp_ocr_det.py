from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models import pp_ocr_det


@pytest.mark.parametrize("name", ["pp_ocr_det"])
def test_real_weights_find_the_text_and_nothing_on_an_empty_page(name: str, built: Path) -> None:
    session = onnxruntime.InferenceSession(built)
    (page,) = pp_ocr_det.calibration(1, pixels=320)
    empty = {"x": np.full_like(page["x"], 0.9)}
    assert (np.asarray(session.run(None, page)[0]) > 0.5).mean() > 0.03
    assert (np.asarray(session.run(None, empty)[0]) > 0.5).mean() < 0.001
