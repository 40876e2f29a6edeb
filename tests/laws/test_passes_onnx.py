from __future__ import annotations

from tests.laws.pass_laws import PassLaws, cases_of


@cases_of("onnx")
class TestOnnx(PassLaws):
    host = "onnx"
